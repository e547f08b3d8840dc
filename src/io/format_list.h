X(quanto)
X(native)

X(torchao)
X(quanto)
X(native)

X(torchao)
X(quanto)
X(awq)
X(native)

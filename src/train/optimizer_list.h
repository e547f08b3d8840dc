X(adamw)
X(sgd)

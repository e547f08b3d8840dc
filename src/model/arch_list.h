X(llama)
X(opt)

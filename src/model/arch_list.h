X(llama)
X(opt)
X(bloom)
X(gpt2)

X(llama)

/* verb_list.h: the verbs in the order in which help shows them; X(name) is cmd_<name>.c. */
X(quantize)
X(verify)
X(generate)
X(eval)
X(bench)
X(info)
X(list)
X(report)

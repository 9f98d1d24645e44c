"""Do people see the leakage that an estimator measures? Blinded pairs for annotators, and their answers read back.

An item is an index pair of a finished run: the first sentence of generation i of a positive or negative prompt (test)
and of generation i of the control prompt of the same sample. Annotators see the stem and both sentences in random
order, not the injection, and say which one is more positive, on five steps. With r in -2..2 for "test more positive
than control" and l = +1 (-1) for a positive (negative) injection, r * l says how far the answer moved towards the
injection; an annotator's leakage vote is [r * l > 0], as EL is [P_t[l] > P_c[l]] (paper, Eq. 1), and the human mu_EL is
the share of pairs whose majority says so.
"""

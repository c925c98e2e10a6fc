"""Changes a directory in every way a program can, at random but by a seed, until it is killed.

`python -m tests.support.churn DIRECTORY SEED` starts some processes with some threads each. Every
step of a thread draws from a generator of its own, made from the seed and the numbers of process,
thread and step, so that a seed gives the same attempts whatever the other threads did meanwhile;
only how they are interleaved differs. Calls fail all the time, since names come and go; any
failure of another kind ends the program with a message.
"""

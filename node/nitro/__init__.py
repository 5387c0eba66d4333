"""Starting enclaves on an AWS instance by `nitro-cli`, and looking before that whether it can work.

`launcher` starts one and accepts its link; `cli` drives the program, `causes` reads its errors; `preflight` judges what `machine` finds;
`transport` has the one place where a vsock is opened. Not tried on hardware: all of it is tested against a stand-in for `nitro-cli` that
answers in the real one's forms.
"""

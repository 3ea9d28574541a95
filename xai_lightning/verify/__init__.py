"""``python -m xai_lightning.verify CKPT``: tells pipelines by exit code whether a gate passed a checkpoint.

It compares the files on disk: the side file, the hash of the checkpoint, and the record within the checkpoint. If there
is a side file, it imports neither torch nor Lightning and unpickles nothing. The result is evidence, not a signature:
whoever can write the files can forge both.
"""

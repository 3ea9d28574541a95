"""``python -m xai_lightning.verify CKPT``: whether a gate passed a checkpoint, as an exit code for pipelines.

It compares what stands on the disk: the side file, the hash of the checkpoint, and the record within the checkpoint.
Beside a side file it imports neither torch nor Lightning, and it unpickles nothing. That is evidence, not a signature:
whoever can write the files can write both.
"""

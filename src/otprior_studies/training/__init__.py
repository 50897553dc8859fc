"""Small networks trained from scratch, for studies of another noise schedule or of other images.

`schedules` names forward processes, `network` plans a network and its training, `loop` trains it in steps that an
interrupted run continues bit for bit, `export` writes it as a diffusers folder. `classifier` trains the features that
quality is measured with, `splits` splits images by hashes.

Reproductions train their networks with these modules; the scripts `train_network.py` and `train_classifier.py` are the
command lines. They are meant for networks of a few million parameters on a CPU or one GPU.
"""

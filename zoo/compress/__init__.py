"""Compression without training: a checkpoint in, a model file of a given size out.

    reference.py     the uncompressed weights, converted and checked; BN folded
    calibration.py   what images tell: the covariance of each layer's inputs, how much its outputs matter
    rounding.py      integers of one matrix that keep its products and cost few bits
    layer.py         one layer: its latents, its steps, its integers, its weights again
    network.py       all layers at one price of a bit, then BN estimated anew, tuned and coded
    search.py        the price at which the file has the size that was asked for
    bn.py            the statistics of BN layers under given weights
    coding.py        vectors as integers, and the entropy model that makes the shortest file
    tensors.py       intermediate results on disk
"""

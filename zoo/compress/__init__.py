"""Compression without training: a checkpoint in, a model file of a given size out.

    reference.py     the uncompressed weights, converted and checked; BN folded
    calibration.py   what images tell: the covariance of each layer's inputs, how much its outputs matter
    rounding.py      integers of one matrix that keep its products and cost few bits
    layer.py         one layer: its latents, its steps, its integers, its weights again
    price.py         all layers at one price of a bit
    network.py       one of this zoo's networks: rounded at a price, BN estimated anew, tuned and coded
    modules.py       the same for any module, with examples of its input
    tuning.py        scales and biases trained to give the uncompressed network's answers
    plain.py         rounding without pictures
    search.py        the price at which the file has the size that was asked for
    bn.py            the statistics of BN layers under given weights
    coding.py        vectors as integers, and the entropy model that makes the shortest file
    tensors.py       intermediate results on disk
"""

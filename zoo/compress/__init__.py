"""Compression without training: a checkpoint in, a model file of a given size out.

    reference.py     the uncompressed weights, converted and checked; BN folded
    command.py       `zoo compress`: a checkpoint of anybody's, to a number of bytes, bits a weight, or an error
    checkpoints.py   the tensors in a checkpoint file, whatever program wrote it
    plain.py         rounding without images
    calibration.py   from images: the covariance of each layer's inputs, how much its outputs matter
    rounding.py      integers of one matrix that keep its products and cost few bits
    layer.py         one layer: latents, steps, integers, and the weights that these give
    price.py         all layers at one price of a bit
    network.py       one of this zoo's networks: rounded at a price, BN estimated anew, tuned and coded
    modules.py       the same for any module, with examples of its input
    tuning.py        scales and biases trained to give the uncompressed network's answers
    synthesis.py     pictures made from a network alone
    search.py        the price at which the file has the requested size
    bn.py            the statistics of BN layers under given weights
    coding.py        vectors as integers, and the entropy model that makes the shortest file
    tensors.py       intermediate results on disk
"""

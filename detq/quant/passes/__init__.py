"""The steps of quantization, one file each; :mod:`detq.quant.recipes` puts them in order.

No pass imports another: what one leaves for the next is in the
:class:`~detq.quant.network.Network`.
"""

"""Re-parameterization of any network: parallel linear branches are found by what they are.

``tracing`` turns a network into a graph of calls, ``matching`` says which branches a tensor of it
adds up, ``algebra`` makes one kernel of them, ``fusing`` puts that kernel's convolution in their
place, and ``scopes`` gives the operations around it the names that they had.
"""

from detq.models.reparam.fusing import FoundBlock, FusedBranches, fuse_branches

__all__ = ["FoundBlock", "FusedBranches", "fuse_branches"]

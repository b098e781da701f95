"""Small backbones that timm lacks, registered with timm's registry: importing this package makes them available."""

from .reactnet import reactnet
from .resnet_small import resnet8, resnet20, resnet32, resnet44, resnet56
from .vgg_small import vgg_small

__all__ = ["reactnet", "resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "vgg_small"]

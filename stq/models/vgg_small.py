"""VGG-small, the network of the LQ-Nets and LSQ tables on CIFAR-10 (LQ-Nets, arXiv 1807.10029): six convolutions."""

from __future__ import annotations

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["VGGSmall"]


class VGGSmall(nn.Module):
    """Two convolutions each of width, 2 width, 4 width channels, max pooling after each pair, one linear layer."""

    def __init__(self, width: int = 128, num_classes: int = 10, in_chans: int = 3):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 4 * width
        layers: list[nn.Module] = []
        channels = in_chans
        for outputs in (width, 2 * width, 4 * width):
            for pooled in (False, True):
                layers.append(nn.Conv2d(channels, outputs, 3, 1, 1, bias=False))
                layers += [nn.MaxPool2d(2)] if pooled else []
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
        self.features = nn.Sequential(*layers)
        self.global_pool = nn.AdaptiveAvgPool2d(4)
        self.fc = nn.Linear(16 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, 32, 32) to logits (N, num_classes); other sizes are pooled to 4 x 4."""
        return self.fc(self.global_pool(self.features(x)).flatten(1))


default_cfgs = generate_default_cfgs(
    {
        "vgg_small.untrained": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "first_conv": "features.0",
            "classifier": "fc",
        }
    }
)


@register_model
def vgg_small(pretrained: bool = False, **kwargs) -> VGGSmall:
    """VGG-small, 4.66 M parameters at width 128."""
    return build_model_with_cfg(VGGSmall, "vgg_small", pretrained, **kwargs)

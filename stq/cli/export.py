"""``stq-export run=FOLDER target=onnxruntime``: export a finished run, and compare the file with the model."""

from __future__ import annotations

from omegaconf import DictConfig

from .application import application
from .setting_types import RUN, check_types, trusted


def _export(cfg: DictConfig) -> None:
    check_types(cfg, RUN)
    from .export_run import export_run

    options = {key: value for key, value in cfg.c.items() if value is not None}
    export_run(cfg.run, cfg.target or cfg.format, cfg.output, cfg.benchmark, trusted(cfg), cfg.pixels, options)


main = application(_export, "export", sweeps=False)

if __name__ == "__main__":
    main()

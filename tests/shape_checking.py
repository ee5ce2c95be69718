"""The run-time checker of the package's annotations; `int` passes where `float` is asked for."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

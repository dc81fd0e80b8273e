"""A certificate authority for tests, and a server certificate of it, as openssl makes them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

__all__ = ["Authority", "make_authority"]

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

#: Of both certificates [days]; nobody keeps them.
_DAYS = ("-days", "2")


@dataclass(frozen=True, slots=True)
class Authority:
    """Where its files are: `ca.pem`, and in `certs` what a MinIO server on 127.0.0.1 takes."""

    directory: str

    @property
    def ca_file(self) -> str:
        """Certificate to trust."""
        return os.path.join(self.directory, "ca.pem")

    @property
    def certs_directory(self) -> str:
        """With `public.crt` and `private.key` of the server."""
        return os.path.join(self.directory, "certs")


def make_authority(directory: str | os.PathLike[str], name: str) -> Authority:
    """Make authority `name` in a directory of its own below `directory`, and a server certificate for 127.0.0.1."""
    place = os.path.join(directory, name)
    os.makedirs(os.path.join(place, "certs"))
    with open(os.path.join(place, "names"), "w", encoding="ascii") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    for arguments in (
        ("req", "-x509", *_CURVE, "-keyout", "ca.key", "-out", "ca.pem", *_DAYS, "-subj", f"/CN={name}"),
        ("req", *_CURVE, "-keyout", "certs/private.key", "-out", "server.csr", "-subj", "/CN=store"),
        ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", *_DAYS,
         "-extfile", "names", "-out", "certs/public.crt"),
    ):  # fmt: skip
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=30)  # noqa: S603 - fixed words
    return Authority(place)

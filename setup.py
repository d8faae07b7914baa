"""What pyproject.toml cannot say: folders at the top of a checkout that lie inside the package in a wheel."""

from setuptools import find_packages, setup

INSIDE = ("models", "localizations")

setup(
    packages=[
        *find_packages(include=["lib_layerdiffusion", "lib_layerdiffusion.*"]),
        *(f"lib_layerdiffusion.{name}" for name in INSIDE),
    ],
    package_dir={f"lib_layerdiffusion.{name}": name for name in INSIDE},
)

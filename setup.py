"""Package metadata, read from settings.ini: dependencies stand there and nowhere else."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
settings = config["DEFAULT"]


def requirements(key: str) -> list[str]:
    """The requirement lines of one key of settings.ini."""
    return [line.strip() for line in settings[key].splitlines() if line.strip() and not line.strip().startswith("#")]


extras = ("train", "serve", "openvino", "score", "video", "cluster", "dev")
setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    project_urls={
        "Documentation": settings["doc_host"] + settings["doc_baseurl"],
        "Changelog": f"{settings['git_url']}/blob/main/CHANGELOG.md",
        "Security": f"{settings['git_url']}/blob/main/SECURITY.md",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    keywords=settings["keywords"].split(),
    license="AGPL-3.0-or-later",
    python_requires=f">={settings['min_python']}",
    packages=[settings["lib_name"]],
    package_data={settings["lib_name"]: ["web/*", "web/*/*"]},  # web/vendor too, if `make web` has run
    install_requires=requirements("requirements"),
    extras_require={name: requirements(f"{name}_requirements") for name in extras},
    entry_points={"console_scripts": settings["console_scripts"].split()},
)

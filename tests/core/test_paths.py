"""Where things outside the package lie: the user's cache, installed packages."""

from __future__ import annotations

from leakmech.core.paths import cache_root, package_folder


def test_cache_root_is_the_environment_variable_else_a_folder_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("LEAKMECH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "leakmech"


def test_package_folder_is_found_without_importing_the_package(monkeypatch, tmp_path):
    package = tmp_path / "breaks_when_imported"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("breaks_when_imported") == package
    assert package_folder("is_installed_nowhere") is None

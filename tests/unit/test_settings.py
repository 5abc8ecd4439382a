from dataclasses import replace

import pytest

from core.errors import ConfigError
from core.settings import PROJECT_ROOT, load_settings


def test_defaults_stand_beside_the_router():
    settings = load_settings({})
    assert settings.home == PROJECT_ROOT / ".lmdyno"
    assert settings.database_url == f"sqlite:///{PROJECT_ROOT / '.lmdyno' / 'lmdyno.db'}"
    assert (PROJECT_ROOT / "streamlit_app.py").exists()


def test_the_environment_wins(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path), "LMDYNO_DATABASE_URL": "postgresql://x"})
    assert settings.models_dir == tmp_path / "models"
    assert settings.pictures_dir == tmp_path / "pictures"
    assert settings.database_url == "postgresql://x"


def test_a_password_in_the_database_url_is_not_in_the_repr():
    settings = load_settings({"LMDYNO_DATABASE_URL": "postgresql://me:hush@db/lmdyno"})
    assert "hush" not in repr(settings)


def test_secrets_come_from_the_environment_then_the_file(tmp_path, monkeypatch):
    secrets = tmp_path / "secrets.toml"
    settings = replace(load_settings({}), secrets_file=secrets)
    assert settings.secret("LAB_KEY") is None
    secrets.write_text('LAB_KEY = "from-file"\n')
    assert settings.secret("LAB_KEY") == "from-file"
    monkeypatch.setenv("LAB_KEY", "from-env")
    assert settings.secret("LAB_KEY") == "from-env"


def test_broken_secrets_are_a_config_error(tmp_path):
    secrets = tmp_path / "secrets.toml"
    secrets.write_text("LAB_KEY = \n")
    with pytest.raises(ConfigError, match=r"secrets\.toml is not valid TOML"):
        replace(load_settings({}), secrets_file=secrets).secret("LAB_KEY")

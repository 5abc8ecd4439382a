from dataclasses import replace

import pytest

from core.errors import ConfigError
from core.settings import PROJECT_ROOT, Mode, load_settings


def test_defaults_stand_beside_the_router():
    settings = load_settings({})
    assert settings.home == PROJECT_ROOT / ".lmdyno"
    assert settings.database_url == f"sqlite:///{PROJECT_ROOT / '.lmdyno' / 'lmdyno.db'}"
    assert (PROJECT_ROOT / "streamlit_app.py").exists()


def test_the_environment_wins(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path), "LMDYNO_DATABASE_URL": "postgresql://x"})
    assert settings.models_dir == tmp_path / "models"
    assert settings.images_dir == tmp_path / "images"
    assert settings.database_url == "postgresql://x"


def test_a_password_in_the_database_url_is_not_in_the_repr():
    settings = load_settings({"LMDYNO_DATABASE_URL": "postgresql://me:hush@db/lmdyno"})
    assert "hush" not in repr(settings)


def test_the_secrets_file_is_streamlits(tmp_path):
    assert load_settings({}).secrets_file == PROJECT_ROOT / ".streamlit" / "secrets.toml"
    secrets = tmp_path / "secrets.toml"
    settings = load_settings({"STREAMLIT_SECRETS_FILES": str(secrets)})
    assert settings.secrets() == {}
    secrets.write_text('[keys.LAB]\nkey = "k"\n')
    assert settings.secrets() == {"keys": {"LAB": {"key": "k"}}}


def test_broken_secrets_are_a_config_error(tmp_path):
    secrets = tmp_path / "secrets.toml"
    secrets.write_text("LAB_KEY = \n")
    with pytest.raises(ConfigError, match=r"secrets\.toml is not valid TOML"):
        replace(load_settings({}), secrets_file=secrets).secrets()


def test_the_mode_is_live_unless_it_is_replay():
    assert load_settings({}).mode is Mode.LIVE
    assert load_settings({"LMDYNO_MODE": "replay"}).mode is Mode.REPLAY
    with pytest.raises(ConfigError, match="LMDYNO_MODE is reply") as caught:
        load_settings({"LMDYNO_MODE": "reply"})
    assert "live, replay" in caught.value.hint

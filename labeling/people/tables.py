"""The tables about people. Of every link, session and token only the SHA-256 is stored, of passwords an argon2 hash."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from labeling.schema import Base, now


class Account(Base):
    """What a person needs to sign in. Their labels hang on the annotator, which stays when the account is shut."""

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("role in ('annotator', 'lead', 'admin')", name="role"),
        CheckConstraint("language in ('en', 'zh')", name="language"),
        CheckConstraint("theme in ('light', 'dark', 'system')", name="theme"),
    )
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), primary_key=True)
    name_key: Mapped[str] = mapped_column(String(255), unique=True)  # the name as names are compared
    password_hash: Mapped[str | None] = mapped_column(String(255))  # none until a link has been followed
    role: Mapped[str] = mapped_column(String(16))
    language: Mapped[str] = mapped_column(String(8), default="en")
    theme: Mapped[str] = mapped_column(String(8), default="system")
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebSession(Base):
    """A browser that is signed in."""

    __tablename__ = "web_session"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]


class ApiToken(Base):
    """A script that may act for a person."""

    __tablename__ = "api_token"
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))  # what it is for
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the hour


class Invitation(Base):
    """A link that sets a password once: for somebody new, or after a reset."""

    __tablename__ = "invitation"
    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]  # also set when it was withdrawn


class LoginAttempt(Base):
    """An attempt to sign in, kept for a day. The name is hashed: people type passwords into the wrong field."""

    __tablename__ = "login_attempt"
    __table_args__ = (
        Index("ix_login_attempt_name_at", "name", "at"),
        Index("ix_login_attempt_address_at", "address", "at"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(default=now, index=True)
    ok: Mapped[bool | None]  # none while the password is being checked


class Audit(Base):
    """Who changed what about people, settings and data. Never a password, a link or a token."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    actor_id: Mapped[int | None] = mapped_column(ForeignKey("annotator.id"))  # none: from the shell
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(255))
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)

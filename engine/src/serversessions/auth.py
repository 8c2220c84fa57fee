"""The session's owner as Starlette's ``request.user``, for ``@requires("authenticated")``."""

from __future__ import annotations

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.requests import HTTPConnection

from .owners import UserId
from .session import Session


class OwnerBackend(AuthenticationBackend):
    """Who owns the session is authenticated. For Starlette's own middleware, behind the sessions':

        middleware = [sessions.middleware, Middleware(AuthenticationMiddleware, OwnerBackend())]

        @requires("authenticated", redirect="sign_in")
        async def account(request): ...  # request.user.id is session.owner

    It makes no call of the store: the session was loaded if a cookie came, and nothing was if none
    did. The session counts as accessed once a page asks for ``request.user`` or ``request.auth``,
    and not before. If the store is down by then, the answer is 503, not an anonymous visitor.
    """

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        session = conn.scope.get("session")
        if not isinstance(session, Session):
            raise RuntimeError(
                "OwnerBackend finds no session: in middleware=[...], `sessions.middleware` comes "
                "before `Middleware(AuthenticationMiddleware, OwnerBackend())`"
            )
        return OwnerCredentials(session), Owner(session)


class OwnerCredentials(AuthCredentials):
    """The scope "authenticated" for as long as the session has an owner."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def scopes(self) -> list[str]:  # type: ignore[override]  # asked only when a page asks
        return [] if self._session.owner is None else ["authenticated"]


class Owner(BaseUser):
    """Whoever owns the session now: a sign-in or a sign-out in this request shows at once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def id(self) -> UserId | None:
        """``session.owner``: the user's id, or None if nobody is signed in."""
        return self._session.owner

    @property
    def is_authenticated(self) -> bool:
        return self.id is not None

    @property
    def display_name(self) -> str:
        """The id as a text; "" if nobody is signed in."""
        return "" if self.id is None else str(self.id)

    @property
    def identity(self) -> str:
        """The same as ``display_name``."""
        return self.display_name

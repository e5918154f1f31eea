"""Catalog: names to providers and aliases, from code, the environment and the built-ins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from types import UnionType
from typing import Any, TypeAlias

import msgspec

from aiollm._settings.hidden import HiddenValues
from aiollm.dsn import ALIAS, Dsn, Limits, Network, Secret, parse_dsn
from aiollm.errors import ConfigError, SpecError
from aiollm.provider import ALL_MODELS, Provider
from aiollm.providers.schemes import BUILTINS, SCHEMES, builtin, from_dsn, merged_headers
from aiollm.providers.urls import OLLAMA_PORT
from aiollm.spec import (
    KnownNames,
    Plan,
    closest,
    how_to_define,
    parse_spec,
    refuse_address,
    shown_spec,
    variable_of,
)
from aiollm.types import MAX_NAME, Target, Timeouts

SchemeFactory: TypeAlias = Callable[[str, Dsn], Provider]
"""Makes a provider from its name and DSN."""

Resolved: TypeAlias = tuple[Plan, dict[Target, Provider], dict[Target, Timeouts]]
"""A plan, with the providers and deadlines of its targets."""

MAX_PLANS = 1024
"""How many parsed specs are kept."""

_IN_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


class Catalog:
    """Resolves names to providers and aliases; a malformed entry fails only when it is used."""

    def __init__(
        self, env: Mapping[str, str] | None, timeouts: Timeouts, *, trust_env: bool = False
    ) -> None:
        """Read `env`; the default is the process's environment, which may change later.

        `trust_env`: take the proxies of `env` or, where it names none, of the process.
        """
        self._trust_env = trust_env
        if env is not None and not _maps_strings(env):
            raise ConfigError("env must map the names of variables to strings")
        self._live = env is None
        self._env = HiddenValues(os.environ if env is None else env)
        self._variables = {_name_of(each): each for each in self._env if _name_of(each)}
        self._timeouts = timeouts
        self._aliases: dict[str, str] = {}
        self._coded: dict[str, Provider] = {}
        self._schemes: dict[str, SchemeFactory] = {}
        self._resolved: dict[str, Provider] = {}
        self._learned: dict[str, dict[str, dict[str, Any]]] = {}
        self._limits: dict[str, dict[str, Limits]] = {}
        self._plans: dict[str, Plan] = {}
        self._resolved_specs: dict[str | Plan, Resolved] = {}

    def register(
        self,
        name: str,
        provider: Provider | str,
        limits: Limits | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a provider, as a row or a DSN; it overrides the environment.

        `limits` and `settings`, which are fields of a row, override its own. Raises: ConfigError.
        """
        self._check_name(name)
        _check_type(limits, Limits | None, f"the limits of {name!r} must be Limits")
        try:
            self._coded[name] = self._made(name, provider, settings or {})
        except ConfigError as error:
            _forget(error)
            raise
        finally:
            del provider, settings  # tools show the variables of the frames that an error passes
        self._learned.pop(name, None)
        self._limits[name] = {ALL_MODELS: limits} if limits is not None else {}
        self._forget_plans()

    def limit(self, name: str | Target, limits: Limits) -> None:
        """Limit a provider or a target, until its provider is registered again.

        Raises: ConfigError.
        """
        _check_type(name, str | Target, "expected a provider's name or a target")
        _check_type(limits, Limits, f"the limits of {str(name)!r} must be Limits")
        provider, slash, model = str(name).partition("/")
        if not self._is_provider(provider) or bool(slash) != bool(model):
            refuse_address(str(name))
            raise ConfigError(f"{str(name)!r} is neither a provider's name nor a target")
        self._limits.setdefault(provider, {})[model or ALL_MODELS] = limits
        self._resolved_specs.clear()

    def limits_of(self, target: Target) -> tuple[Limits, Limits]:
        """Return the limits of a target's provider, and of its model. Raises: ConfigError."""
        return self._resolve(target.provider).limits_of(target.model)

    def alias(self, name: str, spec: str) -> None:
        """Name a spec, which replaces the bare name in other specs. Raises: ConfigError."""
        self._check_name(name)
        _check_type(spec, str, f"alias {name!r} must be a spec")
        self._aliases[name] = spec
        self._forget_plans()

    def register_scheme(self, name: str, factory: SchemeFactory) -> None:
        """Add a DSN scheme: `factory(name, dsn)` returns the provider. Raises: ConfigError."""
        self._check_name(name)
        if not callable(factory):
            raise ConfigError(f"scheme {name!r} must have a function that makes its providers")
        self._schemes[name] = factory
        self._forget_plans()

    def provider(self, name: str) -> Provider:
        """Return the resolved provider. Raises: ConfigError."""
        return self._resolve(name)

    def providers(self) -> dict[str, str]:
        """Return all provider names with their origin: code, environment or built-in."""
        found = dict.fromkeys(BUILTINS, "built-in")
        for variable, value in self._env.items():
            name = _name_of(variable)
            if name and not value.strip().startswith(ALIAS):
                found[name] = "environment"
        return found | dict.fromkeys(self._coded, "code")

    def aliases(self) -> dict[str, str]:
        """Return all aliases with their specs."""
        found = {
            _name_of(variable): value.strip().removeprefix(ALIAS)
            for variable, value in self._env.items()
            if _name_of(variable) and value.strip().startswith(ALIAS)
        }
        return {name: shown_spec(spec) for name, spec in (found | self._aliases).items()}

    def parse(self, spec: str | Plan) -> Plan:
        """Parse a spec and expand its aliases. Raises: SpecError."""
        if isinstance(spec, Plan):
            if not spec.targets:
                raise SpecError("the plan has no targets")
            return spec
        plan = self._plans.get(spec) if type(spec) is str else None
        if plan is None:
            names = KnownNames(self._alias, self._is_provider, self._all_names)
            plan = parse_spec(spec, names)
            if len(self._plans) < MAX_PLANS:
                self._plans[spec] = plan
        return plan

    def describe(self) -> str:
        """Return all providers and aliases as text, tokens masked."""
        lines = []
        for name, origin in sorted(self.providers().items()):
            try:
                provider = self._resolve(name)
                lines.append(f"{name}  {_described(provider)}  ({origin})")
            except ConfigError as error:
                lines.append(f"{name}  not usable: {error.message}  ({origin})")
        lines += [f"{name} = {spec}" for name, spec in sorted(self.aliases().items())]
        return "\n".join(lines)

    def resolve(self, spec: str | Plan, timeouts: Timeouts | None) -> Resolved:
        """Return a spec's plan, with the providers and the deadlines of its targets.

        `timeouts` override all others. Raises: SpecError, ConfigError.
        """
        cached = timeouts is None and isinstance(spec, str | Plan)
        known = self._resolved_specs.get(spec) if cached else None
        if known is None:
            plan = self.parse(spec)
            providers = self.providers_of(plan)
            deadlines = {
                target: self.timeouts_of(provider) if timeouts is None else timeouts
                for target, provider in providers.items()
            }
            known = plan, providers, deadlines
            if cached and len(self._resolved_specs) < MAX_PLANS:
                self._resolved_specs[spec] = known
        return known

    def check_extra(self, extra: Mapping[str, Any]) -> None:
        """Check the scopes of a request's `extra`. Raises: ConfigError."""
        from aiollm.providers.extra_fields import check_extra  # most calls have none

        names = KnownNames(self._alias, self._is_provider, self._all_names)
        check_extra(extra, names, self._wires)

    def _wires(self) -> Iterator[str]:
        """Yield the wires of all providers that can be used, the ready ones first."""
        from aiollm.providers.extra_fields import wires_of

        for provider in (*self._coded.values(), *self._resolved.values()):
            yield from wires_of(provider.codec.family)
        for name in self.providers().keys() - {*self._coded, *self._resolved}:
            try:
                family = self._row(name).codec.family
            except Exception:  # noqa: BLE001, S112 - no fault of the call, which names another
                continue
            yield from wires_of(family)

    def providers_of(self, plan: Plan) -> dict[Target, Provider]:
        """Resolve all targets of a plan. Raises: ConfigError."""
        return {target: self._resolve(target.provider) for target in plan.targets}

    def load(self, targets: Iterable[Target]) -> None:
        """Import what the codecs of targets need; another thread may do so.

        A fault of a provider is left to whoever asks for it, and so are schemes of others.
        """
        for name in {each.provider for each in targets}:
            with suppress(ConfigError):
                (self._coded.get(name) or self._new_row(name, {})).codec.decoder()

    def timeouts_of(self, provider: Provider) -> Timeouts:
        """Return a provider's deadlines: the options of its DSN, else those of the registry."""
        options = provider.options
        own = {
            "connect": options.connect_timeout,
            "first_output": options.first_output_timeout,
            "idle": options.idle_timeout,
        }
        given = {name: value for name, value in own.items() if value is not None}
        return msgspec.structs.replace(self._timeouts, **given) if given else self._timeouts

    def learn(self, target: Target, facts: dict[str, Any]) -> None:
        """Keep what a server reported about a model, until its provider is registered again."""
        self._learned.setdefault(target.provider, {})[target.model] = facts
        self._resolved_specs.clear()

    def _resolve(self, name: str) -> Provider:
        _check_type(name, str, "a provider's name must be a str")
        provider = self._row(name)
        if learned := self._learned.get(name):
            provider = msgspec.structs.replace(provider, learned=dict(learned))
        if limits := self._limits.get(name):
            provider = msgspec.structs.replace(provider, limits=provider.limits | limits)
        return provider

    def _row(self, name: str) -> Provider:
        provider = self._coded.get(name) or self._resolved.get(name)
        if provider is not None:
            return provider
        self._resolved[name] = provider = self._proxied(self._new_row(name, self._schemes))
        return provider

    def _new_row(self, name: str, schemes: Mapping[str, SchemeFactory]) -> Provider:
        variable = self._variable(name)
        if self._is_dsn(variable):
            return self._from_dsn(name, self._variable_value(variable) or "", variable, schemes)
        if name in BUILTINS:
            return builtin(name, self._env)
        refuse_address(name)
        if self._alias(name) is not None:
            raise ConfigError(f"{name!r} is an alias, not a provider")
        if self._is_provider(name.partition("/")[0]):
            raise ConfigError(f"{name!r} is a target: its provider is {name.partition('/')[0]!r}")
        hint = how_to_define(name, closest(name, self.providers()))
        raise ConfigError(f"unknown provider {name!r}{hint}")

    def _made(self, name: str, provider: Provider | str, settings: Mapping[str, Any]) -> Provider:
        """Return a provider that is registered in code, with its settings."""
        given = {key: value for key, value in settings.items() if value is not None}
        try:
            if "token" in given:
                from aiollm._wire.tokens import as_token  # most programs set none in code

                given["token"] = as_token(given["token"])
            row: Any = provider
            if isinstance(provider, str):
                del row
                variable = f"provider {name!r}"
                row = self._from_dsn(name, provider, variable, self._schemes, given.get("token"))
            _check_type(row, Provider, f"provider {name!r} must be a Provider or a DSN")
            return self._proxied(_with(row, given))
        finally:
            del provider, settings, given  # tools show the variables of frames

    def _proxied(self, provider: Provider) -> Provider:
        if not self._trust_env:
            return provider
        from aiollm.providers.proxies import VARIABLES, proxied  # for those who ask for it

        own = any(each in self._env for each in VARIABLES)
        try:
            return proxied(provider, self._env if own else os.environ)
        except ConfigError as error:
            _forget(error)
            raise

    def _from_dsn(
        self,
        name: str,
        text: str,
        variable: str,
        schemes: Mapping[str, SchemeFactory],
        token: Secret | None = None,
    ) -> Provider:
        try:
            dsn = parse_dsn(text, variable)
        finally:
            del text  # tools show the variables of the frames that an error passes
        if token is not None:
            dsn = msgspec.structs.replace(dsn, token=token)
        factory = schemes.get(dsn.scheme)
        if factory is not None:
            provider = factory(name, dsn)
            _check_type(provider, Provider, f"scheme {dsn.scheme!r} must make a Provider")
            return provider
        scheme = SCHEMES.get(dsn.scheme)
        if scheme is None:
            raise ConfigError(f"{variable}: {_unknown_scheme(dsn, [*SCHEMES, *self._schemes])}")
        return from_dsn(name, dsn, self._env, scheme)

    def environment(self) -> HiddenValues:
        """Return the variables that names are looked up in."""
        return HiddenValues(os.environ | self._env) if self._live else self._env

    def _variable(self, name: str) -> str:
        """Return the variable that defines a name: `LLM_MY_BOX`, or the one that is really set."""
        usual = variable_of(name)
        return usual if usual in self._env else self._variables.get(name, usual)

    def _variable_value(self, variable: str) -> str | None:
        value = self._env.get(variable)
        if value is None and self._live:
            value = os.environ.get(variable)
        return value

    def _is_dsn(self, variable: str) -> bool:
        text = self._variable_value(variable)
        return text is not None and not text.strip().startswith(ALIAS)

    def _alias(self, name: str) -> str | None:
        spec = self._aliases.get(name)
        if spec is not None:
            return spec
        text = self._variable_value(self._variable(name)) if _is_name(name) else None
        if text is None or not text.strip().startswith(ALIAS):
            return None
        return text.strip().removeprefix(ALIAS)

    def _is_provider(self, name: str) -> bool:
        if name in self._coded or name in BUILTINS:
            return True
        if not _is_name(name):
            return False
        return self._is_dsn(self._variable(name))

    def _all_names(self) -> Iterable[str]:
        return [*self.aliases(), *self.providers()]

    def _forget_plans(self) -> None:
        self._plans.clear()
        self._resolved_specs.clear()
        self._resolved.clear()

    @staticmethod
    def _check_name(name: str) -> None:
        _check_type(name, str, "a name must be a str")
        if not _is_name(name) or len(name) > MAX_NAME:
            refuse_address(name)
            reason = f"use lower-case letters, digits, '-' and '.', at most {MAX_NAME} in all"
            raise ConfigError(f"invalid name {name!r}: {reason}")


def _is_name(text: str) -> bool:
    return text[:1] not in ("", ".", "-") and _IN_NAME.issuperset(text)


def _unknown_scheme(dsn: Dsn, known: list[str]) -> str:
    from difflib import get_close_matches  # most programs never need it

    is_url = dsn.scheme in {"http", "https"}
    spoken = "ollama" if dsn.port == OLLAMA_PORT else "openai"
    port = f":{dsn.port}" if dsn.port else ""
    example = f"{spoken}+{dsn.scheme}://{dsn.host}{port}" if is_url else "openai://host"
    hint = f"name what the server speaks, as in {example} (known: {', '.join(known)})"
    start = f"unknown scheme {dsn.scheme!r:.80}"
    close = get_close_matches(dsn.scheme[:80], known, 1)
    if not close:
        return f"{start}: {hint}"
    transport = "+http" if dsn.secure is False else ""
    return f"{start}; did you mean {close[0]}{transport}://? Else {hint}"


def _maps_strings(env: object) -> bool:
    return isinstance(env, Mapping) and all(isinstance(each, str) for each in chain(*env.items()))


def _forget(error: ConfigError) -> None:
    """Clear the variables of the frames that ended with an error: they hold settings with keys."""
    from aiollm._wire.redaction import forget_variables  # for failures alone

    forget_variables(error)


def _with(provider: Provider, settings: Mapping[str, Any]) -> Provider:
    """Return a row with more headers and parameters, and other settings. Raises: ConfigError."""
    given = dict(settings)
    _check_type(given.get("network"), Network | None, "network must be a Network")
    headers, query = given.get("headers", {}), given.get("query", {})
    if "headers" in given or "query" in given:
        from aiollm._settings.network import check_settings  # few programs add any

        check_settings(headers, query)
        given["headers"] = merged_headers(provider.headers, headers)
        given["query"] = {**provider.query, **query}
    return msgspec.structs.replace(provider, **given) if given else provider


def _described(provider: Provider) -> str:
    key = "key ***" if provider.token is not None else "no key"
    names = ", ".join([*provider.headers, *(f"?{name}" for name in provider.query)])
    parts = (provider.scheme, provider.base_url, key, names, provider.network.label)
    return "  ".join(filter(None, parts))


def _check_type(value: object, kind: type | UnionType, wanted: str) -> None:
    if not isinstance(value, kind):
        hint = ": pass its .provider()" if callable(getattr(value, "provider", None)) else ""
        raise ConfigError(f"{wanted}, not of type {type(value).__name__}{hint}")


def _name_of(variable: str) -> str:
    """Return the name that a variable defines, "" if it does not define one."""
    if not variable.startswith("LLM_"):
        return ""
    name = variable.removeprefix("LLM_").lower().replace("_", "-")
    return name if _is_name(name) else ""

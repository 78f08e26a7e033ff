"""Column types for read models that keep exact values on every database.

Not here: the tables themselves, which each projection names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Numeric
from sqlalchemy.types import TypeDecorator, TypeEngine

DECIMALS = 4
INT64_MAX = 2**63 - 1


class Money(TypeDecorator[Decimal]):
    """An exact amount of at most 4 decimals, which SQL can add up. Reads as a Decimal with 2 decimals or more.

    PostgreSQL keeps NUMERIC; SQLite, which has no exact decimals, an integer of ten-thousandths.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type by database."""
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(38, DECIMALS))

    def process_bind_param(self, value: Decimal | int | None, dialect: Dialect) -> Any:
        """Raises ValueError for what the column can't hold exactly."""
        if value is None:
            return None
        exact = (value if type(value) is Decimal else Decimal(value)).scaleb(DECIMALS)
        units = int(exact)
        if units != exact or abs(units) > INT64_MAX:
            raise ValueError(f"{value} is no amount of at most {DECIMALS} decimals and {INT64_MAX} ten-thousandths")
        return units if dialect.name == "sqlite" else Decimal(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Leave out zeros from the third decimal on."""
        if value is None:
            return None
        units = int(value) if dialect.name == "sqlite" else int(Decimal(value).scaleb(DECIMALS))
        decimals = DECIMALS
        while decimals > 2 and units % 10 == 0:
            units, decimals = units // 10, decimals - 1
        return Decimal(units).scaleb(-decimals)


class Moment(TypeDecorator[datetime]):
    """A moment, exact to the microsecond: aware datetimes in, UTC out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite knows no time zones, so UTC is kept there."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say that it is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

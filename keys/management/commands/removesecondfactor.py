"""manage.py removesecondfactor MAIL: for the platform admin who lost the app and the recovery codes, or the passkeys."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from keys import audit
from keys.management import wording
from keys.models import SecondFactor, User


class Command(BaseCommand):
    help = "Take away somebody's second factor, passkeys included: the password alone signs them in until they set up another."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("mail", help="The mail address they sign in with.")

    def handle(self, *args: Any, mail: str, **options: Any) -> None:
        person = User.objects.filter(email__iexact=mail).first()
        factor = SecondFactor.objects.filter(user=person)
        if person is None or not (factor.exists() or person.passkeys.exists()):
            raise CommandError(f"{mail} has no second factor, or there is nobody of that address.")
        with transaction.atomic():
            factor.delete()
            person.passkeys.all().delete()
            audit.record(wording.actor(), "user.second_factor_removed", person, {})
        self.stdout.write(f"The second factor of {person} is gone.")

"""The pages of this room in the admin. Each subject has a file of its own (admin_*.py); importing it registers its pages."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.models import Group

from keys import admin_invitations as admin_invitations
from keys import admin_keys as admin_keys
from keys import admin_organizations as admin_organizations
from keys import admin_people as admin_people
from keys import admin_trail as admin_trail

admin.site.unregister(Group)

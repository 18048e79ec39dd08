"""User models that differ from Django's own, and two models that inherit from whichever the project has."""

import uuid

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser, AbstractUser, BaseUserManager
from django.db import models


class UserWithUuid(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class UserManager(BaseUserManager):
    def create_user(self, username, password=None):
        user = self.model(**{self.model.USERNAME_FIELD: username})
        user.set_password(password)
        user.save()
        return user


class UserByEmail(AbstractBaseUser):
    email = models.EmailField(unique=True)
    is_active = models.BooleanField(default=True)
    objects = UserManager()
    USERNAME_FIELD = "email"


class Person(models.Model):
    name = models.CharField(max_length=99)


class UserAsPerson(Person, AbstractBaseUser):
    username = models.CharField(max_length=99, unique=True)
    is_active = models.BooleanField(default=True)
    objects = UserManager()
    USERNAME_FIELD = "username"


class Proxy(get_user_model()):
    class Meta:
        proxy = True


class Employee(get_user_model()):
    desk = models.CharField(max_length=99)

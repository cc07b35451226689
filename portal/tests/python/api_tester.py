"""Who asks when schemathesis tests the portal, and what they leave alone.

PORTAL_URL is the portal. The administrator `ada` asks, with PORTAL_TOKEN if it is set, and with a
session otherwise. Changes are asked for with the version that is there, so that they come to pass;
the administrator keeps their account, password and rights, or nobody could ask any more.
"""

import os
import uuid

import requests
import schemathesis

URL = os.environ["PORTAL_URL"]
TOKEN = os.environ.get("PORTAL_TOKEN")
PASSWORD = os.environ["PORTAL_PASSWORD"]


class Tester:
    """The administrator's session, begun anew whenever it has ended."""

    secret = None
    user = None

    @classmethod
    def log_in(cls):
        answer = requests.post(f"{URL}/api/v1/sessions", json={"name": "ada", "password": PASSWORD}, timeout=60)
        answer.raise_for_status()
        cls.secret = answer.cookies["culvert"]
        cls.user = answer.json()["user"]["id"]


Tester.log_in()


@schemathesis.auth(refresh_interval=None)
class Credential:
    def get(self, case, context):
        if TOKEN:
            return TOKEN
        if Tester.secret is None:
            Tester.log_in()
        return Tester.secret

    def set(self, case, data, context):
        if TOKEN:
            case.headers = case.headers or {}
            case.headers["Authorization"] = f"Bearer {data}"
        else:
            case.cookies = {**(case.cookies or {}), "culvert": data}


@schemathesis.hook
def filter_case(context, case):
    """The administrator's own account stays as it is."""
    own = isinstance(case.path_parameters, dict) and case.path_parameters.get("id") == Tester.user
    return not (own and case.method in ("PATCH", "PUT", "POST"))


@schemathesis.hook
def before_call(context, case, kwargs):
    name = case.operation.definition.raw.get("operationId")
    if name == "changePassword" and isinstance(case.body, dict) and len(str(case.body.get("password"))) >= 12:
        # Whatever else is wrong with it: the administrator's password stays.
        case.body["password"] = PASSWORD
    if not is_meant_to_pass(case):
        return
    if name in ("createGroup", "replaceGroup") and isinstance(case.body, dict) and case.body.get("members"):
        case.body["members"] = [Tester.user]
    if name in ("deleteGroup", "withdrawInvitation") and case.meta.phase.name.value != "stateful":
        case.path_parameters["id"] = new_thing(name)
    if case.headers and "If-Match" in case.headers and case.headers["If-Match"] != '"v0"':
        path = case.formatted_path.removesuffix("/roles")
        read = requests.get(URL + path, cookies={"culvert": session()}, timeout=60)
        if "etag" in read.headers:
            case.headers["If-Match"] = read.headers["etag"]


@schemathesis.hook
def after_call(context, case, response):
    ends = ("logOut", "stepUp", "revokeSession", "revokeOtherSessions", "changePassword", "setRoles")
    if response.status_code == 401 or case.operation.definition.raw.get("operationId") in ends:
        Tester.secret = None


def new_thing(name):
    """Something to delete, which nothing that is made up would name."""
    if name == "deleteGroup":
        path, body = "groups", {"name": f"made-{uuid.uuid4()}", "members": []}
    else:
        path, body = "invitations", {"roles": [], "days": 1}
    answer = requests.post(f"{URL}/api/v1/{path}", json=body, cookies={"culvert": session()}, timeout=60)
    made = answer.json()
    return made.get("invitation", made)["id"]


def is_meant_to_pass(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def session():
    if Tester.secret is None:
        Tester.log_in()
    return Tester.secret

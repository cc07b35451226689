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
    if name == "giveUpToken" and TOKEN:
        # Another one: that which everything is asked with stays.
        wish = {"name": "given up", "scopes": ["people:read"], "days": 1}
        case.headers["Authorization"] = f"Bearer {call('POST', 'tokens', wish).json()['secret']}"
    if not is_meant_to_pass(case):
        return
    if isinstance(case.body, dict):
        case.body.update(sensible(name, case.body))
    if name == "showDevice":
        case.query["user_code"] = device_code()
    if name in THINGS and case.meta.phase.name.value != "stateful":
        case.path_parameters["id"] = THINGS[name]()
    if case.headers and "If-Match" in case.headers and case.headers["If-Match"] != '"v0"':
        path = case.formatted_path.removesuffix("/roles").removesuffix("/secret")
        read = requests.get(URL + path, cookies={"culvert": session()}, timeout=60)
        if "etag" in read.headers:
            case.headers["If-Match"] = read.headers["etag"]


@schemathesis.hook
def after_call(context, case, response):
    ends = ("logOut", "stepUp", "revokeSession", "revokeOtherSessions", "changePassword", "setRoles")
    if response.status_code == 401 or case.operation.definition.raw.get("operationId") in ends:
        Tester.secret = None


def sensible(name, body):
    """What no schema can say: people that there are, codes that a device shows, addresses to reach."""
    if name in ("createGroup", "replaceGroup") and body.get("members"):
        return {"members": [Tester.user]}
    if name in ("approveDevice", "denyDevice"):
        return {"user_code": device_code()}
    if name in ("createWebhook", "replaceWebhook"):
        return {"url": "https://hooks.example.org/", "events": ["*"]}
    if name == "replaceSettings":
        # Otherwise nobody could ask any more, for lack of a second factor or of time, or invite.
        lasting = {"session_idle_seconds": 1800, "session_absolute_seconds": 43200, "step_up_seconds": 900}
        return {"second_factor_for_staff": False, "registration": "approval", **lasting}
    if name in ("createProvider", "replaceProvider"):
        return {"issuer": f"https://{uuid.uuid4()}.example.org", "scopes": ["email"], "roles_by_group": {}}
    return {}


def call(method, path, body=None, version=None):
    headers = {} if version is None else {"If-Match": f'"v{version}"'}
    url = f"{URL}/api/v1/{path}"
    for _ in range(2):
        answer = requests.request(method, url, json=body, headers=headers, cookies={"culvert": session()}, timeout=60)
        if answer.status_code != 401:
            break
        # What was made up has ended the session.
        Tester.secret = None
    return answer


def device_code():
    scopes = [f"{what}:{how}" for what in ("transfers", "people", "settings") for how in ("read", "write")]
    wish = {"client": "tester", "scopes": scopes + ["audit:read"]}
    return call("POST", "device/code", wish).json()["user_code"]


def webhook():
    for old in call("GET", "webhooks").json()["items"][5:]:
        call("DELETE", f"webhooks/{old['id']}", version=old["version"])
    wish = {"url": "https://hooks.example.org/", "events": ["*"], "enabled": False}
    return call("POST", "webhooks", wish).json()["webhook"]["id"]


def provider():
    name = f"made-{uuid.uuid4()}"
    wish = {"name": name, "title": name, "issuer": f"https://{name}.example.org", "client_id": "culvert"}
    return call("POST", "providers", {**wish, "accounts": "linked-only"}).json()["id"]


# Things to ask about, which nothing that is made up would name.
THINGS = {
    "deleteGroup": lambda: call("POST", "groups", {"name": f"made-{uuid.uuid4()}", "members": []}).json()["id"],
    "withdrawInvitation": lambda: call("POST", "invitations", {"roles": [], "days": 1}).json()["invitation"]["id"],
    "replaceWebhook": webhook,
    "deleteWebhook": webhook,
    "changeWebhookSecret": webhook,
    "testWebhook": webhook,
    "listDeliveries": webhook,
    "showDelivery": lambda: call("POST", f"webhooks/{webhook()}/test").json()["id"],
    "retryDelivery": lambda: call("POST", f"webhooks/{webhook()}/test").json()["id"],
    "replaceProvider": provider,
    "deleteProvider": provider,
    "testProvider": provider,
}


def is_meant_to_pass(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


def session():
    if Tester.secret is None:
        Tester.log_in()
    return Tester.secret

"""A program that somebody would write with the client that is generated from docs/openapi.json.

PORTAL_URL is the portal, PORTAL_NAME and PORTAL_PASSWORD are an administrator's. It logs in, takes
a token, and does everything else with that.
"""

import os

from portal_client import AuthenticatedClient, Client
from portal_client.api.people import create_group, delete_group, list_groups, replace_group, show_group
from portal_client.api.sessions import log_in
from portal_client.api.tokens import create_token
from portal_client.models import Group, GroupDocument, LogIn, PageGroup, ProblemDocument, Scope, TokenWishDocument

URL = os.environ["PORTAL_URL"]


def take_token():
    anonymous = Client(base_url=URL)
    body = LogIn(name=os.environ["PORTAL_NAME"], password=os.environ["PORTAL_PASSWORD"])
    answer = log_in.sync_detailed(client=anonymous, body=body)
    assert answer.status_code == 201, answer
    cookie = answer.headers["set-cookie"].split(";")[0].split("=", 1)
    with_session = Client(base_url=URL, cookies={cookie[0]: cookie[1]})
    wish = TokenWishDocument(name="generated", days=1, scopes=[Scope.PEOPLEREAD, Scope.PEOPLEWRITE])
    return create_token.sync(client=with_session, body=wish).secret


def change_one(client):
    made = create_group.sync_detailed(client=client, body=GroupDocument(name="lab", members=[]))
    assert made.status_code == 201 and isinstance(made.parsed, Group), made
    group, version = made.parsed, made.headers["etag"]
    wish = GroupDocument(name="lab", members=[], description="of the first floor")
    changed = replace_group.sync_detailed(group.id, client=client, body=wish, if_match=version)
    assert changed.status_code == 200 and changed.headers["etag"] != version, changed
    stale = replace_group.sync_detailed(group.id, client=client, body=wish, if_match=version)
    assert isinstance(stale.parsed, ProblemDocument) and stale.parsed.code == "changed", stale
    read = show_group.sync_detailed(group.id, client=client)
    assert read.parsed.description == "of the first floor" and read.parsed.version == 2, read
    gone = delete_group.sync_detailed(group.id, client=client, if_match=read.headers["etag"])
    assert gone.status_code == 204, gone
    missing = show_group.sync_detailed(group.id, client=client)
    assert missing.status_code == 404 and missing.parsed.code == "not-found", missing


def follow_pages(client):
    names = sorted(f"{letter}{number}" for letter in "abc" for number in range(9))
    for name in names:
        assert isinstance(create_group.sync(client=client, body=GroupDocument(name=name, members=[])), Group)
    seen, pages, cursor = [], 0, {}
    while True:
        page = list_groups.sync(client=client, limit=10, **cursor)
        assert isinstance(page, PageGroup), page
        seen += [group.name for group in page.items]
        pages += 1
        if not page.next_:
            break
        cursor = {"cursor": page.next_}
    assert seen == names and pages == 3, (seen, pages)


client = AuthenticatedClient(base_url=URL, token=take_token())
change_one(client)
follow_pages(client)
print("all of it was done")

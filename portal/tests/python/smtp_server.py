"""A mail server for tests: aiosmtpd, which stores each message as a file and is told by another file
how to behave. Its only argument is a file with its configuration."""

import asyncio
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

config = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(config["folder"])
count = 0


async def behave(command):
    """Waits as long as it was told to; returns the refusal of a command, if there is one."""
    behavior = json.loads(pathlib.Path(config["behavior"]).read_text())
    await asyncio.sleep(behavior["delay_seconds"])
    return behavior["refusals"].get(command)


class Handler:
    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        refusal = await behave("EHLO")
        return [refusal] if refusal else responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        refusal = await behave("MAIL")
        if refusal:
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        refusal = await behave("RCPT")
        if refusal:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        global count
        refusal = await behave("DATA")
        if refusal:
            return refusal
        count += 1
        login = session.auth_data.login.decode() if session.authenticated else None
        message = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "encrypted": session.ssl is not None or config["tls"] == "implicit",
            "login": login,
            "text": envelope.content.decode("utf-8", "replace"),
        }
        path = folder / f"{count:06}.json"
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(message))
        whole.rename(path)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    known = config["login"]
    is_known = [data.login.decode(), data.password.decode()] == known
    return AuthResult(success=is_known, handled=False, auth_data=data)


async def main():
    context = None
    if config["tls"] != "none":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(config["certificate"], config["key"])
    is_implicit = config["tls"] == "implicit"

    def session():
        needs_login = config["login"] is not None
        return SMTP(
            Handler(),
            hostname="localhost",
            enable_SMTPUTF8=True,
            tls_context=None if is_implicit else context,
            require_starttls=config["tls"] == "required",
            auth_required=needs_login,
            auth_require_tls=config["tls"] in ("starttls", "required"),
            authenticator=authenticate if needs_login else None,
            loop=asyncio.get_running_loop(),
        )

    loop = asyncio.get_running_loop()
    tls = context if is_implicit else None
    server = await loop.create_server(session, "127.0.0.1", config["port"], ssl=tls)
    async with server:
        await server.serve_forever()


asyncio.run(main())

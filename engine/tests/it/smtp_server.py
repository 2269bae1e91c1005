"""A mail server for tests: STARTTLS and AUTH required, or TLS from the start; it misbehaves as asked.

    smtp_server.py DIR [--port N] [--cert FILE --key FILE] [--tls] --user NAME --password TEXT

What it does with a mail is in DIR/mode, read anew for each: "ok"; "451" or "550" (so answered after
the text); "quota" (550 5.4.5 after the text, as Gmail has it); "sender" (550 to MAIL FROM); "550 WORD"
(only if the subject holds WORD, else "ok"); "stall" (no answer after the text); "slow" (takes it after
two seconds); "late" (takes it, and says so after half a second: "answered" among the events); "later"
(the same after twelve seconds); "close" (hangs up after the text); "rcpt CODE ADDRESS" (so answered to
RCPT TO of this address, "rcpt" among the events). What it takes goes into DIR/mails (pictures into DIR/N.png), what else happens into
DIR/events, an object of JSON per line.
"""

import argparse
import asyncio
import email
import email.policy
import json
import pathlib
import ssl

from aiosmtpd.smtp import SMTP, AuthResult

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--cert")
parser.add_argument("--key")
parser.add_argument("--tls", action="store_true")
parser.add_argument("--user", required=True)
parser.add_argument("--password", required=True)
args = parser.parse_args()


def write(file, what):
    with open(args.dir / file, "a", encoding="utf-8") as out:
        out.write(json.dumps(what) + "\n")


def part(message, kind):
    body = message.get_body(preferencelist=(kind,))
    return body.get_content() if body else None


class Handler:
    async def handle_MAIL(self, server, session, envelope, address, options):
        if (args.dir / "mode").read_text(encoding="utf-8").strip() == "sender":
            return "550 5.7.1 not from you"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        mode, _, rest = (args.dir / "mode").read_text(encoding="utf-8").strip().partition(" ")
        code, _, refused = rest.partition(" ")
        if mode == "rcpt" and address == refused:
            write("events", {"event": mode, "code": code, "address": address})
            return code + (" 4.2.2 mailbox full" if code.startswith("4") else " 5.1.1 no such user")
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        subject = str(message["Subject"])
        mode, _, word = (args.dir / "mode").read_text(encoding="utf-8").strip().partition(" ")
        if word and word not in subject:
            mode = "ok"
        if mode == "stall":
            write("events", {"event": "stalled", "subject": subject})
            await asyncio.sleep(3600)
        if mode == "close":
            write("events", {"event": "closed", "subject": subject})
            server.transport.abort()
            return "421 gone"
        if mode == "slow":
            await asyncio.sleep(2)
            mode = "ok"
        if mode == "quota":
            write("events", {"event": mode, "subject": subject})
            return "550 5.4.5 Daily user sending limit exceeded"
        late = {"late": 0.5, "later": 12}.get(mode)
        if mode not in ("ok", "late", "later"):
            write("events", {"event": mode, "subject": subject})
            return mode + " not now" if mode.startswith("4") else mode + " never"
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "authenticated": bool(session.authenticated),
            "encrypted": session.ssl is not None or args.tls,
            "headers": [[name, str(value)] for name, value in message.items()],
            "subject": subject,
            "body": part(message, "plain"),
            "html": part(message, "html"),
            "parts": [inner.get_content_type() for inner in message.walk()],
            "defects": [str(defect) for inner in message.walk() for defect in inner.defects],
        }
        for at, inner in enumerate(message.walk()):
            if inner.get_content_type() == "image/png":
                (args.dir / f"{at}.png").write_bytes(inner.get_content())
        write("mails", mail)
        if late:
            # Whoever hangs up meanwhile has this cancelled.
            await asyncio.sleep(late)
            write("events", {"event": "answered", "subject": subject})
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    right = (args.user.encode(), args.password.encode())
    success = (data.login, data.password) == right
    write("events", {"event": "auth", "success": success})
    # Not handled: the answer is the server's own.
    return AuthResult(success=success, handled=False)


context = None
if args.cert:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.cert, args.key)


def factory():
    starttls = None if args.tls else context
    return SMTP(
        Handler(),
        hostname="mail.test",
        tls_context=starttls,
        require_starttls=starttls is not None,
        auth_required=True,
        auth_require_tls=not args.tls,
        # Alertmanager stumbles over it.
        auth_exclude_mechanism=["LOGIN"],
        authenticator=authenticate,
    )


async def main():
    encryption = context if args.tls else None
    server = await asyncio.get_running_loop().create_server(
        factory, "127.0.0.1", args.port, ssl=encryption
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())

use super::*;

fn text(reply: &Reply<'_>) -> String {
    let mut out = Vec::new();
    write_reply(reply, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn says_why() {
    let reply = Reply {
        status: 403,
        reason: Reason::Denied,
        fields: &[("location", "/x")],
        text: "no",
        close: true,
        head_only: false,
    };
    let head = "HTTP/1.1 403 Forbidden\r\nheddle-reason: denied\r\ncontent-type: text/plain; charset=utf-8\r\n\
                content-length: 3\r\nlocation: /x\r\nconnection: close\r\n\r\n";
    assert_eq!(text(&reply), format!("{head}no\n"));
    assert_eq!(text(&Reply { head_only: true, ..reply }), head);
}

#[test]
fn every_reason_makes_a_response_that_we_would_accept() {
    for &reason in Reason::ALL {
        let reply = Reply { status: reason.status(), reason, fields: &[], text: "x", close: false, head_only: true };
        let mut response = crate::h1::Response::default();
        let out = text(&reply);
        let taken = response.parse(out.as_bytes(), Default::default(), &crate::settings::Limits::default());
        assert_eq!(taken, Ok(Some(out.len())));
        assert_eq!(response.fields().get("heddle-reason"), Some(reason.code().as_bytes()));
    }
}

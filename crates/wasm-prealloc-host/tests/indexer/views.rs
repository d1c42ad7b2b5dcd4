//! Views: by command, and over HTTP beside blocks, with their bounds, metrics and health.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use crate::{Case, RECORDER, expect};

/// The recorder with views: `last` returns the stored value of "last" after the view's own input,
/// `flushing` flushes, `endless` never returns, and `spinning` returns after a while.
fn with_views() -> String {
    RECORDER.replace(
        "(func (export \"_start\")",
        r#"(func (export "last") (result i32)
            (local $length i32)
            (local.set $length (call $host_len))
            (call $load_input (i32.const 1004))
            (call $get (i32.const 104) (i32.add (i32.const 1004) (local.get $length)))
            (i32.store (i32.const 1000)
                (i32.add (local.get $length) (call $get_len (i32.const 104))))
            (i32.const 1004))
        (func (export "flushing") (result i32) (call $flush (i32.const 204)) (i32.const 0))
        (func (export "outside") (result i32) (i32.const -1))
        (func (export "endless") (result i32) (loop (br 0)) (unreachable))
        (func (export "_start")"#,
    )
}

#[test]
fn a_view_by_command_reads_the_state_as_of_a_height() {
    let case = Case::new(&with_views());
    expect(&case.index(&["--block", "6869", "--block", "796f"]), 0, &[]);
    let view = |arguments: &[&str]| {
        let common = ["guest.wasm", "--view-pages", "16", "--view"];
        case.run(&[&common, arguments].concat())
    };
    for (arguments, answer) in [
        (&["last"][..], "0100000001000000796f\n"),
        (&["last", "--input", "abcd"], "01000000abcd01000000796f\n"),
        (&["last", "--at-height", "0"], "00000000000000006869\n"),
        (&["last", "--unsecured"], "0100000001000000796f\n"),
    ] {
        let output = view(arguments);
        expect(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), answer);
    }
    for (arguments, status, text) in [
        (&["last", "--at-height", "2"][..], 2, "the last height is 1"),
        (&["_start"], 2, "the guest exports no view \"_start\""),
        (&["flushing"], 1, "__flush: a view is read-only"),
        (
            &["outside"],
            1,
            "the view's answer: 4 bytes at 4294967291 are outside",
        ),
        (
            &["endless", "--view-timeout", "0"],
            1,
            "longer than --view-timeout allows",
        ),
    ] {
        expect(&view(arguments), status, &[text]);
    }
    // Views change nothing.
    assert_eq!(
        case.dump(),
        "before = 0x000000006869\nlast = 0x01000000796f\n"
    );
}

/// A refusal of the pool for views names the flags for views, and following it works.
#[test]
fn a_guest_that_does_not_fit_a_view_is_refused_with_the_flag_for_views() {
    let case = Case::new(&with_views());
    expect(&case.index(&["--block", "6869"]), 0, &[]);
    let refused = case.run(&["guest.wasm", "--view", "last", "--view-pages", "8"]);
    expect(&refused, 1, &["guest.wasm is not verified", "--view-pages"]);
}

/// An indexer that listens.
struct Listening {
    process: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Listening {
    fn start(case: &Case, arguments: &[&str]) -> Listening {
        let common = ["guest.wasm", "--pages", "16", "--listen", "127.0.0.1:0"];
        let mut command = case.command(&[&common, arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let mut listening = Listening {
            process,
            stdout,
            address: String::new(),
        };
        let line = listening.line();
        let address = line.strip_prefix("listening at http://");
        listening.address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        listening
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a request, and returns the answer with its head.
    fn request(&self, head: &str, body: &str) -> String {
        request(&self.address, head, body)
    }

    /// Sends SIGTERM, and expects exit status 0 and these texts on stderr.
    #[track_caller]
    fn stop(mut self, texts: &[&str]) {
        let id = self.process.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(killed.success());
        let mut output = Output {
            status: self.process.wait().unwrap(),
            stdout: vec![],
            stderr: vec![],
        };
        let mut stderr = self.process.stderr.take().unwrap();
        stderr.read_to_end(&mut output.stderr).unwrap();
        expect(&output, 0, texts);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // A test that fails leaves no process behind. One that stopped cannot be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn request(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{head}\r\nHost: {address}\r\nConnection: close\r\nAccept: text/plain\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn expect_answer(answer: &str, status: u16, text: &str) {
    let start = format!("HTTP/1.1 {status} ");
    assert!(
        answer.starts_with(&start) && answer.contains(text),
        "no {status}, {text:?} in {answer}"
    );
}

#[test]
fn views_metrics_and_health_are_answered_while_blocks_are_indexed() {
    let case = Case::new(&with_views());
    std::fs::write(case.0.path().join("chain.txt"), "6869\n796f\n").unwrap();
    let views = [
        "--views",
        "2",
        "--view-pages",
        "16",
        "--check-interval",
        "1",
    ];
    let follow = ["--chain", "chain.txt", "--follow", "--block-slots", "2"];
    let mut host = Listening::start(&case, &[&views[..], &follow].concat());
    assert_eq!(host.line(), "block 0: 2 values stored");
    assert_eq!(host.line(), "block 1: 2 values stored");

    let last = host.request("GET /view/last HTTP/1.1", "");
    expect_answer(&last, 200, "\r\n\r\n0100000001000000796f\n");
    assert!(last.contains("x-height: 1"), "{last}");
    let early = host.request("GET /view/last?height=0&input=abcd HTTP/1.1", "");
    expect_answer(&early, 200, "\r\n\r\n00000000abcd000000006869\n");
    let posted = host.request("POST /view/last HTTP/1.1", "AB");
    expect_answer(&posted, 200, "\r\n\r\n01000000414201000000796f\n");
    let text = "POST /view/last HTTP/1.1\r\nContent-Type: text/plain";
    expect_answer(
        &host.request(text, "4142"),
        200,
        "\r\n\r\n01000000414201000000796f\n",
    );
    for (path, status, text) in [
        ("last?height=2", 404, "the last height is 1"),
        ("last?height=no", 400, "not a number"),
        ("last?input=no", 400, "not hexadecimal"),
        ("last?depth=1", 400, "neither height=H nor input=HEX"),
        ("none", 404, "exports no view"),
        ("flushing", 500, "a view is read-only"),
    ] {
        let answer = host.request(&format!("GET /view/{path} HTTP/1.1"), "");
        expect_answer(&answer, status, text);
    }

    expect_answer(&host.request("GET /health HTTP/1.1", ""), 200, "ok\n");
    // After the first check of residency.
    thread::sleep(std::time::Duration::from_millis(1300));
    let metrics = host.request("GET /metrics HTTP/1.1", "");
    for line in [
        "indexer_slots{pool=\"blocks\"} 2",
        "indexer_slots{pool=\"views\"} 2",
        "indexer_slots_lent{pool=\"views\"} 0",
        "indexer_loans_total{pool=\"blocks\"} 2",
        "indexer_resets_total{pool=\"views\",kind=\"enforced-size\"} 5",
        "indexer_resident_bytes{pool=\"blocks\"} 2097152",
        "indexer_blocks_total 2",
        "indexer_height 1",
        "indexer_views_total{outcome=\"answered\"} 4",
        "# TYPE indexer_view_seconds gauge",
    ] {
        expect_answer(&metrics, 200, line);
    }
    host.stop(&[
        "secured for 2 views",
        "blocks: 2 in ",
        "views: 4 in ",
        "pool of views: 5 loans",
    ]);
}

#[test]
fn views_beyond_the_bound_are_refused_and_those_that_run_are_finished() {
    let case = Case::new(&with_views());
    expect(&case.index(&["--block", "6869"]), 0, &[]);
    let bounds = ["--views", "1", "--view-pages", "16", "--waiting-views", "1"];
    let host = Listening::start(&case, &[&bounds[..], &["--view-timeout", "2"]].concat());
    // One runs, one waits, and one is refused.
    let endless = || {
        let address = host.address.clone();
        thread::spawn(move || request(&address, "GET /view/endless HTTP/1.1", ""))
    };
    let waits = |count: &str| {
        let metrics = host.request("GET /metrics HTTP/1.1", "");
        metrics.contains("indexer_slots_lent{pool=\"views\"} 1\n")
            && metrics.contains(&format!(
                "indexer_slots_waiting{{pool=\"views\"}} {count}\n"
            ))
    };
    let until = |count| {
        (0..200).any(|_| {
            waits(count) || {
                thread::sleep(crate::MOMENT);
                false
            }
        })
    };
    let running = endless();
    assert!(until("0"));
    let waiting = endless();
    assert!(until("1"));
    let refused = host.request("GET /view/last HTTP/1.1", "");
    expect_answer(&refused, 503, "1 views wait for 1 memories");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    host.stop(&["blocks: 0 in ", "1 refused"]);
    expect_answer(
        &running.join().unwrap(),
        504,
        "longer than --view-timeout allows",
    );
    expect_answer(&waiting.join().unwrap(), 503, "the indexer stops");
}

#[test]
fn an_address_that_others_can_reach_is_refused_unless_it_is_allowed() {
    let case = Case::new(&with_views());
    let blocks = ["--block", "00", "--listen", "0.0.0.0:0"];
    expect(
        &case.index(&blocks),
        2,
        &["other machines can reach", "--allow-remote"],
    );
    let allowed = case.index(&[&blocks[..], &["--allow-remote"]].concat());
    expect(&allowed, 0, &[]);
    let stdout = String::from_utf8_lossy(&allowed.stdout);
    assert!(
        stdout.starts_with("listening at http://0.0.0.0:"),
        "{stdout}"
    );
}

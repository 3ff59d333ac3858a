//! What is started, and what cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use sortie::exec::{Error, local};

use crate::place::{Place, finish, finish_exit};

#[tokio::test]
async fn a_script_of_any_size() {
    let padding = format!(": {}\n", "x".repeat(1000)).repeat(1000);
    let script = format!("{padding}echo \"$0|$1|$2|$#\"; exit 3");
    for argv in [["sh", "-c"], ["/bin/dash", "-c"], ["bash", "-euc"], ["/bin/bash", "-lc"]] {
        let place = Place::new();
        let argv = [argv[0], argv[1], &script, "zero", "a b", "it's"];
        let running = local::start(place.request(&argv)).await.unwrap();
        let (exit, out, err) = finish(&place, running).await;
        assert_eq!((exit.code, out.as_str()), (Some(3), "zero|a b|it's|2\n"), "{err}");
        let mode = fs::metadata(place.path("command")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn an_argument_no_kernel_takes() {
    let place = Place::new();
    let error = local::start(place.request(&["echo", &"x".repeat(128 << 10)])).await.unwrap_err();
    assert!(matches!(error, Error::ArgumentTooLarge { index: 1, bytes: 131_072, max: 131_071 }));
    assert!(error.to_string().contains("prompt"));
}

#[tokio::test]
async fn a_request_larger_than_the_pipe() {
    let place = Place::new();
    let mut request = place.request(&["sh", "-c", "printf %s \"$V0$V9\" | wc -c"]);
    let large = |index| (format!("V{index}"), "v".repeat(100_000));
    request.env.extend((0..10).map(large));
    let (exit, out, _) = finish(&place, local::start(request.clone()).await.unwrap()).await;
    assert_eq!((exit.code, out.trim()), (Some(0), "200000"));

    request.env.extend((10..80).map(large));
    let exit = finish_exit(&place, local::start(request).await.unwrap()).await;
    let reason = exit.not_started.unwrap();
    assert!(!reason.is_infrastructure && reason.reason.contains("larger than"), "{reason:?}");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let place = Place::new();
    fs::write(place.path("plain"), "#!/bin/sh\n").unwrap();
    for (program, why) in [("no-such-program", "was not found"), ("./plain", "executable")] {
        let running = local::start(place.request(&[program])).await.unwrap();
        let exit = finish_exit(&place, running).await;
        assert_eq!((exit.code, exit.signal), (None, None));
        let reason = exit.not_started.unwrap();
        assert!(!reason.is_infrastructure && reason.reason.contains(why), "{reason:?}");
    }
    let mut request = place.request(&["true"]);
    request.cwd = place.path("missing");
    let exit = finish_exit(&place, local::start(request).await.unwrap()).await;
    assert!(exit.not_started.unwrap().is_infrastructure);
}

#[tokio::test]
async fn the_agent_gets_what_was_asked_for_and_nothing_else() {
    let place = Place::new();
    let request = place.request(&["env", "-0"]);
    let given = request.env.clone();
    let (_, out, _) = finish(&place, local::start(request).await.unwrap()).await;
    let pairs = out.split_terminator('\0').map(|pair| pair.split_once('=').unwrap());
    let got: BTreeMap<_, _> = pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    assert_eq!(got, given);

    fs::write(place.path("prompt"), "do it").unwrap();
    // Of the ignored signals the lower 31 count; the C library keeps two real-time ones.
    let script = "cat; pwd; umask; grep -E 'SigBlk|NoNewPrivs' /proc/self/status
                  ignored=$(sed -n 's/SigIgn:\t/0x/p' /proc/self/status)
                  echo $((ignored & 0x7fffffff))
                  cat /proc/self/oom_score_adj; ls /proc/self/fd; [ $$ = $(ps -o pgid= $$) ]";
    let mut request = place.request(&["sh", "-c", script]);
    request.stdin = Some(place.path("prompt"));
    let (exit, out, _) = finish(&place, local::start(request).await.unwrap()).await;
    let expected = format!(
        "do it{}\n0022\nSigBlk:\t0000000000000000\nNoNewPrivs:\t1\n0\n500\n\
         0\n1\n2\n3\n",
        place.dir().display(),
    );
    assert_eq!((exit.code, out), (Some(0), expected));
}

use session_cache_model::{*, configurations::*};
#[test]
fn promised() {
    println!("state: {} bytes", std::mem::size_of::<state::State>());
    let mut total = 0;
    for b in PROMISED.iter().chain(LIMITS) {
        let t = std::time::Instant::now();
        let r = Model::new(*b).check();
        total += r.states;
        println!("{:50} {:>9} {:>5} {:?} lim {} soon {} {:?}", b.name, r.states, r.depth, t.elapsed(), r.limits, r.soon_again, r.trace.as_ref().map(|t|t.0));
        if let Some((_, t)) = r.trace { for l in t { println!("    {l}"); } }
    }
    println!("{total}");
}

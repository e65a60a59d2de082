use session_cache_model::{*, configurations::*};
#[test]
fn matrix() {
    for rule in Rule::ALL {
        let mut by = vec![];
        for b in PROMISED.iter().chain(LIMITS) {
            let r = Model::new(*b).without(*rule).check();
            if let Some((what, t)) = r.trace { by.push(format!("{} ({what}, {} steps, {} states)", b.name, t.len(), r.states)); }
        }
        println!("{rule:?}: {}", if by.is_empty() {"NOTHING".into()} else {by.join("; ")});
    }
}

//! The titles that a group of viewers chooses from.

use crate::player::{Format, Player};
use crate::scenario::TitleRule;
use crate::target::{CLEAR_POLICY, Target};

/// An asset, as far as the group watches it.
pub(super) struct Title {
    pub(super) asset: String,
    /// Never empty.
    pub(super) streams: Vec<Stream>,
    /// Whether it has a clear policy, so that protected samples can be compared.
    pub(super) is_comparable: bool,
}

/// One policy in one format.
pub(super) struct Stream {
    pub(super) policy: String,
    /// As a viewer meets it; each has a copy of his own.
    pub(super) player: Player,
}

impl Title {
    /// The stream of the viewer before whom so many have chosen the title.
    pub(super) fn stream(&self, visit: usize) -> &Stream {
        &self.streams[visit % self.streams.len()]
    }
}

/// The titles of the target that have a stream of the wanted policies and formats, in its order.
pub(super) fn titles(target: &Target, rule: &TitleRule, tls: bool) -> Vec<Title> {
    let wants_policy = |policy: &String| rule.policies.is_empty() || rule.policies.contains(policy);
    let wants_format = |format: &Format| rule.formats.is_empty() || rule.formats.contains(format);
    let mut titles = Vec::new();
    for asset in &target.assets {
        let mut streams = Vec::new();
        for stream in asset
            .streams
            .iter()
            .filter(|stream| wants_policy(&stream.policy))
        {
            let formats = [(Format::Dash, &stream.dash), (Format::Hls, &stream.hls)];
            for (format, url) in formats
                .into_iter()
                .filter(|(format, _)| wants_format(format))
            {
                streams.push(Stream {
                    policy: stream.policy.clone(),
                    player: Player::new(format, target.on_listener(url, tls), 0),
                });
            }
        }
        if !streams.is_empty() {
            titles.push(Title {
                asset: asset.id.clone(),
                streams,
                is_comparable: asset
                    .streams
                    .iter()
                    .any(|stream| stream.policy == CLEAR_POLICY),
            });
        }
    }
    titles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::Errand;
    use crate::scenario::Rule;
    use crate::target::testing::target;

    fn urls(policies: &[&str], formats: &[Format]) -> Vec<String> {
        let rule = TitleRule {
            rule: Rule::Uniform,
            seed: 0,
            policies: policies.iter().map(|&policy| policy.to_owned()).collect(),
            formats: formats.to_vec(),
        };
        let titles = titles(&target(), &rule, true);
        let streams = titles.iter().flat_map(|title| &title.streams);
        let url = |stream: &Stream| match &stream.player.missing(0)[0] {
            Errand::Manifest(url) => url.to_string(),
            other => panic!("{other:?}"),
        };
        streams.map(url).collect()
    }

    #[test]
    fn lists_the_streams_that_are_wanted() {
        let base = "https://127.0.0.1:8443/v1/demo";
        let all = [
            "cbcs/main.mpd",
            "cbcs/main.m3u8",
            "clear/main.mpd",
            "clear/main.m3u8",
        ];
        assert_eq!(urls(&[], &[]), all.map(|path| format!("{base}/{path}")));
        assert_eq!(
            urls(&["cbcs"], &[Format::Hls]),
            [format!("{base}/cbcs/main.m3u8")]
        );
        assert!(
            urls(&["cenc"], &[]).is_empty(),
            "no such policy, so no such title"
        );
    }

    #[test]
    fn visits_go_round_the_streams() {
        let rule = TitleRule {
            rule: Rule::Uniform,
            seed: 0,
            policies: Vec::new(),
            formats: vec![Format::Dash],
        };
        let titles = titles(&target(), &rule, false);
        let policies: Vec<_> = (0..3)
            .map(|visit| titles[0].stream(visit).policy.as_str())
            .collect();
        assert_eq!(policies, ["cbcs", "clear", "cbcs"]);
        assert!(titles[0].is_comparable);
    }
}

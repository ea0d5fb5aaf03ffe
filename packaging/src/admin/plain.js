const list = document.getElementById("links");
fetch("/api/v1/demo", { cache: "no-store" })
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`status ${response.status}`))))
  .then(({ assets }) =>
    list.replaceChildren(
      ...assets.flatMap(({ id, streams }) =>
        streams.flatMap(({ policy, hls, dash }) =>
          [hls, dash].map((url) => {
            const link = Object.assign(document.createElement("a"), { href: url, textContent: url });
            const item = document.createElement("li");
            item.append(`${id}, ${policy}: `, link);
            return item;
          }),
        ),
      ),
    ),
  )
  .catch((error) => {
    list.textContent = `Nothing to play here: ${error.message}`;
  });

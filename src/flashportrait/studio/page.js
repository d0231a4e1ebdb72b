// Keeps the driver in step with the result, and lets a click on a numbered face choose it.
(() => {
  const follower = main => main.closest(".trio")?.querySelector("video[data-follow]");
  const place = (main, other) => main.currentTime + Number(other.dataset.follow);
  const isMain = target => target instanceof HTMLVideoElement && "main" in target.dataset;

  // Media events don't bubble, so they are caught on their way down.
  const on = (name, act) => document.addEventListener(name, event => {
    if (!isMain(event.target)) return;
    const other = follower(event.target);
    if (other) act(event.target, other);
  }, true);
  on("play", (main, other) => { other.currentTime = place(main, other); other.play().catch(() => {}); });
  on("pause", (main, other) => { other.pause(); other.currentTime = place(main, other); });
  on("seeking", (main, other) => { other.currentTime = place(main, other); });
  on("ratechange", (main, other) => { other.playbackRate = main.playbackRate; });
  on("timeupdate", (main, other) => {
    if (Math.abs(other.currentTime - place(main, other)) > 0.12) other.currentTime = place(main, other);
    if (!main.paused && other.paused) other.play().catch(() => {});
  });

  document.addEventListener("error", event => {
    const video = event.target;
    if (video instanceof HTMLVideoElement && "follow" in video.dataset) {
      video.closest("figure").classList.add("unplayable");
      video.hidden = true;
    }
  }, true);

  document.addEventListener("click", event => {
    const face = event.target.closest?.("[data-pick]");
    if (!face) return;
    const inputs = document.querySelectorAll(`#${face.dataset.pick} input[type=radio]`);
    inputs[Number(face.dataset.number) - 1]?.click();
  });
})();

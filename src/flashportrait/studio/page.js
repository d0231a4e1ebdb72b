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

// The live look: a frame is sent when the last one's answer has come, so that the newest wins and none are queued.
window.studioLive = (() => {
  const SIDE = 320;
  let socket = null, stream = null;
  const $ = id => document.getElementById(id);
  const say = text => { if ($("live-said")) $("live-said").textContent = text; };

  async function start(ticket) {
    stop();
    if (!ticket) return;
    const webcam = $("live-webcam");
    if (!navigator.mediaDevices?.getUserMedia) {
      say("This browser gives no webcam here: open the studio on its own machine, or through TLS.");
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
    } catch (error) {
      say(`The webcam can't be used: ${error.message}.`);
      return;
    }
    webcam.srcObject = stream;
    await webcam.play();
    say("Starting ...");
    const url = new URL("live", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("ticket", ticket);
    const mine = socket = new WebSocket(url);
    mine.binaryType = "blob";
    run(mine, webcam);
  }

  function run(mine, webcam) {
    const small = document.createElement("canvas"), times = [];
    let sent = 0, shown = "";
    const send = () => {
      if (mine !== socket || mine.readyState !== WebSocket.OPEN) return;
      const scale = SIDE / Math.max(webcam.videoWidth, webcam.videoHeight);
      small.width = Math.round(webcam.videoWidth * scale);
      small.height = Math.round(webcam.videoHeight * scale);
      const pen = small.getContext("2d");
      pen.setTransform(-1, 0, 0, 1, small.width, 0);
      pen.drawImage(webcam, 0, 0, small.width, small.height);
      sent = performance.now();
      small.toBlob(blob => mine.readyState === WebSocket.OPEN && mine.send(blob), "image/jpeg", 0.8);
    };
    mine.onmessage = async event => {
      if (mine !== socket) return;
      if (typeof event.data === "string") {
        if (event.data === "ready") send(); else { say(event.data); shown = event.data; }
        return;
      }
      const now = performance.now(), delay = now - sent;
      if (event.data.size) {
        const picture = await createImageBitmap(event.data);
        if (mine !== socket) return;  // stopped meanwhile
        const shownOn = $("live-portrait");
        if (shownOn) {
          if (shownOn.width !== picture.width) shownOn.width = picture.width;
          if (shownOn.height !== picture.height) shownOn.height = picture.height;
          shownOn.getContext("2d").drawImage(picture, 0, 0);
        }
        times.push([now, delay]);
        while (times[0][0] < now - 2000) times.shift();
        const rate = times.length > 2 ? 1000 * (times.length - 1) / (now - times[0][0]) : 0;
        const mean = times.reduce((sum, each) => sum + each[1], 0) / times.length;
        if (rate) say(`${rate.toFixed(0)} frames a second, ${mean.toFixed(0)} ms behind the webcam.`);
      } else {
        say("No face is seen.");
      }
      requestAnimationFrame(send);
    };
    mine.onclose = () => { if (mine === socket) { stop(); say(shown || "Stopped."); } };
  }

  function rest() {
    if (socket?.readyState === WebSocket.OPEN) socket.send("rest");
  }

  function stop() {
    const old = socket;
    socket = null;
    old?.close();
    stream?.getTracks().forEach(track => track.stop());
    stream = null;
    say("Stopped.");
  }

  return { start, stop, rest };
})();

using System.Globalization;
using System.IO.Compression;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Ioctls that programs made on the real vivid of kernels 6.1 and 6.12 (`Data/v4l2`), with the bytes of their arguments
/// before and behind each: every file read whole, from the caller's memory, with the recorded pointers. Each ioctl of
/// the queue and of its format answers the same errno and the same bytes, but for timestamps. The others are listed.
/// </summary>
public sealed class RecordedIoctlTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const ulong Argument = 0x1000_0000;
    private const int QueryCapabilities = 0;

    /// <summary>Offsets of struct v4l2_buffer and of struct v4l2_plane that the replay itself looks at.</summary>
    private const int MemoryAt = 60, PointerAt = 64, LengthAt = 72, PlaneBytes = 64, PlanePointerAt = 8, TimeAt = 24;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    /// <summary>Ioctls of the queue and of its format, by number.</summary>
    private static readonly Dictionary<int, string> Replayed = new()
    {
        [4] = "G_FMT",
        [5] = "S_FMT",
        [8] = "REQBUFS",
        [9] = "QUERYBUF",
        [15] = "QBUF",
        [16] = "EXPBUF",
        [17] = "DQBUF",
        [18] = "STREAMON",
        [19] = "STREAMOFF",
        [64] = "TRY_FMT",
        [92] = "CREATE_BUFS",
        [93] = "PREPARE_BUF",
        [104] = "REMOVE_BUFS",
    };

    /// <summary>Ioctls that vivid has and this one has not in the form of Linux: ENOTTY.</summary>
    private static readonly Dictionary<int, string> Absent = new()
    {
        [2] = "ENUM_FMT",
        [21] = "G_PARM",
        [22] = "S_PARM",
        [23] = "G_STD",
        [25] = "ENUMSTD",
        [26] = "ENUMINPUT",
        [27] = "G_CTRL",
        [29] = "G_TUNER",
        [36] = "QUERYCTRL",
        [38] = "G_INPUT",
        [58] = "CROPCAP",
        [73] = "TRY_EXT_CTRLS",
        [74] = "ENUM_FRAMESIZES",
        [75] = "ENUM_FRAMEINTERVALS",
        [90] = "SUBSCRIBE_EVENT",
        [94] = "G_SELECTION",
        [103] = "QUERY_EXT_CTRL",
    };

    [Theory]
    [InlineData("6.1-vid-mp1-gst-mmap-5", 33,
        "1 CROPCAP, 6 ENUMINPUT, 1 ENUMSTD, 84 ENUM_FMT, 1680 ENUM_FRAMEINTERVALS, 245 ENUM_FRAMESIZES, "
        + "2 G_CTRL, 3 G_INPUT, 1 G_PARM, 3 G_SELECTION, 1 G_STD, 1 G_TUNER, 68 QUERYCTRL, "
        + "1 SUBSCRIBE_EVENT, 1 S_PARM")]
    [InlineData("6.1-vid-mp1-stream-mmap", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 76 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    [InlineData("6.1-vid-mp2-stream-mmap", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 76 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    [InlineData("6.1-vid-mp2-stream-out-user", 23,
        "3 G_SELECTION, 1 G_STD, 1 QUERYCTRL, 42 QUERY_EXT_CTRL, 1 TRY_EXT_CTRLS")]
    [InlineData("6.1-vid-mp2-stream-user", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 76 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    [InlineData("6.12-vid-mp1-gst-mmap-5", 33,
        "1 CROPCAP, 6 ENUMINPUT, 1 ENUMSTD, 84 ENUM_FMT, 2555 ENUM_FRAMEINTERVALS, 245 ENUM_FRAMESIZES, "
        + "2 G_CTRL, 3 G_INPUT, 1 G_PARM, 3 G_SELECTION, 1 G_STD, 1 G_TUNER, 69 QUERYCTRL, "
        + "1 SUBSCRIBE_EVENT, 1 S_PARM")]
    [InlineData("6.12-vid-mp1-stream-mmap", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 79 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    [InlineData("6.12-vid-mp2-stream-mmap", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 79 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    [InlineData("6.12-vid-mp2-stream-out-user", 23,
        "3 G_SELECTION, 1 G_STD, 1 QUERYCTRL, 43 QUERY_EXT_CTRL, 1 TRY_EXT_CTRLS")]
    [InlineData("6.12-vid-mp2-stream-user", 25,
        "1 ENUMINPUT, 1 G_INPUT, 3 G_SELECTION, 1 QUERYCTRL, 79 QUERY_EXT_CTRL, 1 SUBSCRIBE_EVENT, "
        + "1 TRY_EXT_CTRLS")]
    public async Task Ioctls_answer_the_recorded_bytes(string name, int replayed, string listed)
    {
        var ioctls = Read(name);
        var (profile, isMultiplanar, isOutput) = (name.Split('-')[0], name.Contains("mp2"), name.Contains("-out-"));
        var time = new TickingTime();
        var options = new VividOptions { IsMultiplanar = isMultiplanar, IsOutput = isOutput, Time = time };
        await using var rig = await VividRig.CreateAsync(daemon, profile, options, memoryBytes: 128UL << 20);
        rig.Lab.Anon(Argument, 1);
        var replay = new Replay(rig, time);
        var counts = new SortedDictionary<string, int>(StringComparer.Ordinal);
        var done = 0;
        foreach (var (ioctl, number) in ioctls.Select((ioctl, number) => (ioctl, number)))
        {
            var place = $"{name}, ioctl {number}, {Replayed.GetValueOrDefault(ioctl.Number)}";
            if (Replayed.ContainsKey(ioctl.Number))
            {
                Assert.Equal((place, ioctl.Expected), (place, await replay.RunAsync(ioctl).WaitAsync(Patience)));
                done++;
            }
            else if (ioctl.Number == QueryCapabilities)
            {
                // Version and bits of capabilities behind the names: no tuner and no audio here.
                const int names = 80;
                var (_, bytes, _) = await replay.CallAsync(ioctl);
                Assert.Equal(ioctl.Out[..names], bytes[..names]);
                done++;
            }
            else
            {
                Assert.Equal((place, Errno.ENOTTY), (place, (await replay.CallAsync(ioctl)).Errno));
                var command = Absent[ioctl.Number];
                counts[command] = counts.GetValueOrDefault(command) + 1;
            }
        }

        var found = string.Join(", ", counts.Select(pair => $"{pair.Value} {pair.Key}"));
        output.WriteLine($"{name}: {done} replayed; not there: {found}");
        Assert.Equal((replayed, listed), (done, found));
    }

    [Fact]
    public void Every_file_is_replayed()
    {
        var named = typeof(RecordedIoctlTests).GetMethod(nameof(Ioctls_answer_the_recorded_bytes))!
            .GetCustomAttributes(typeof(InlineDataAttribute), false).Cast<InlineDataAttribute>()
            .Select(row => (string)row.Data[0]!);
        Assert.Equal(
            Directory.GetFiles(Folder).Select(file => Path.GetFileName(file).Replace(".ioctls.gz", "")).Order(),
            named.Order());
    }

    private static string Folder => Path.Combine(AppContext.BaseDirectory, "Data", "v4l2");

    /// <summary>
    /// "fd 3 cmd c0145608 type V nr 8 dir WR size 20", then lines "in", "in+", "ret", "out" and "out+".
    /// </summary>
    private static List<Recorded> Read(string name)
    {
        var found = new List<Recorded>();
        using var file = System.IO.File.OpenRead(Path.Combine(Folder, name + ".ioctls.gz"));
        using var lines = new StreamReader(new GZipStream(file, CompressionMode.Decompress));
        while (lines.ReadLine() is { } line)
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words[0] == "fd")
            {
                found.Add(new Recorded(
                    uint.Parse(words[3], NumberStyles.HexNumber, CultureInfo.InvariantCulture),
                    int.Parse(words[7], CultureInfo.InvariantCulture)));
                continue;
            }

            var last = found[^1];
            if (words[0] == "ret") last.Errno = words.Length > 2 ? (Errno)int.Parse(words[3], null) : Errno.None;
            else last[words[0]] = Convert.FromHexString(words.Length > 1 ? words[1] : "");
        }

        return found;
    }

    /// <summary>An ioctl of a recording.</summary>
    private sealed class Recorded(uint request, int number)
    {
        private readonly Dictionary<string, byte[]> _bytes = new(StringComparer.Ordinal);

        public uint Request => request;

        /// <summary>_IOC_NR.</summary>
        public int Number => number;

        public Errno Errno { get; set; }

        public byte[] In => this["in"];

        public byte[] Out => this["out"];

        public byte[] Planes => this["in+"];

        public byte[] this[string line]
        {
            get => _bytes.GetValueOrDefault(line, []);
            set => _bytes[line] = value;
        }

        public string Expected => Say(Errno, this, Out, this["out+"]);

        public bool IsBuffer => Replayed.GetValueOrDefault(number) is "QUERYBUF" or "QBUF" or "DQBUF" or "PREPARE_BUF";

        public uint Memory => BitConverter.ToUInt32(In, MemoryAt);

        /// <summary>The errno and the bytes, without the time of a frame, which is only not zero.</summary>
        public static string Say(Errno errno, Recorded ioctl, byte[] bytes, byte[] planes)
        {
            bytes = [.. bytes];
            if (ioctl.IsBuffer && bytes.AsSpan(TimeAt, 16).ContainsAnyExcept((byte)0))
                bytes.AsSpan(TimeAt, 16).Fill(0xff);
            return $"{errno} {Convert.ToHexString(bytes)} {Convert.ToHexString(planes)}";
        }
    }

    /// <summary>The program's side: its memory, and what it does between its ioctls.</summary>
    private sealed class Replay(VividRig rig, TickingTime time)
    {
        private readonly RemoteFrameMemory _memory = new(rig.Daemon.Client);
        private readonly HashSet<ulong> _pages = [];
        private readonly HashSet<ulong> _mapped = [];

        public async Task<string> RunAsync(Recorded ioctl)
        {
            var call = CallAsync(ioctl);
            if (ioctl.Errno == Errno.None && Replayed[ioctl.Number] == "DQBUF") time.Tick();
            var (errno, bytes, planes) = await call;
            if (Replayed[ioctl.Number] == "STREAMON") await time.TimerAsync();
            if (Replayed[ioctl.Number] == "QUERYBUF") await MapAsync(bytes, planes);
            // The recording has as many planes behind the call as the buffer has; the others stay as they were.
            var written = ioctl["out+"].Length;
            Assert.Equal(ioctl.Planes[Math.Min(written, planes.Length)..], planes[Math.Min(written, planes.Length)..]);
            return Recorded.Say(errno, ioctl, bytes, planes[..Math.Min(written, planes.Length)]);
        }

        /// <summary>The ioctl with its argument, and its planes, in the program's memory.</summary>
        public async Task<(Errno Errno, byte[] Bytes, byte[] Planes)> CallAsync(Recorded ioctl)
        {
            var array = ioctl.IsBuffer && ioctl.Planes.Length > 0 ? BitConverter.ToUInt64(ioctl.In, PointerAt) : 0;
            if (array != 0)
            {
                Have(array, (ulong)ioctl.Planes.Length);
                await _memory.WriteAsync(rig.SpaceName, array, ioctl.Planes);
            }

            if (ioctl.IsBuffer && ioctl.Memory == (uint)Vb2Memory.UserPtr) HaveBuffers(ioctl, array != 0);
            await _memory.WriteAsync(rig.SpaceName, Argument, ioctl.In);
            var (errno, _, _) = await rig.Device.File.UapiIoctlAsync(rig.SpaceName, ioctl.Request, default, Argument);
            var (bytes, planes) = (new byte[ioctl.In.Length], new byte[array == 0 ? 0 : ioctl.Planes.Length]);
            await _memory.ReadAsync(rig.SpaceName, Argument, bytes);
            if (array != 0) await _memory.ReadAsync(rig.SpaceName, array, planes);
            return (errno, bytes, planes);
        }

        /// <summary>Memory of the program that its arguments name.</summary>
        private void HaveBuffers(Recorded ioctl, bool isMultiplanar)
        {
            if (!isMultiplanar)
            {
                Have(BitConverter.ToUInt64(ioctl.In, PointerAt), BitConverter.ToUInt32(ioctl.In, LengthAt));
                return;
            }

            for (var at = 0; at < ioctl.Planes.Length; at += PlaneBytes)
                Have(
                    BitConverter.ToUInt64(ioctl.Planes, at + PlanePointerAt),
                    BitConverter.ToUInt32(ioctl.Planes, at + 4));
        }

        private void Have(ulong address, ulong length)
        {
            if (address == 0) return;
            for (var page = address & ~4095UL; page < address + length; page += 4096)
                if (_pages.Add(page)) rig.Lab.Anon(page, 1);
        }

        /// <summary>A program maps each MMAP plane once, behind its first QUERYBUF.</summary>
        private async Task MapAsync(byte[] bytes, byte[] planes)
        {
            if (BitConverter.ToUInt32(bytes, MemoryAt) != (uint)Vb2Memory.Mmap) return;
            if (planes.Length == 0)
            {
                await MapAsync(BitConverter.ToUInt32(bytes, PointerAt), BitConverter.ToUInt32(bytes, LengthAt));
                return;
            }

            for (var i = 0; i < BitConverter.ToInt32(bytes, LengthAt); i++)
                await MapAsync(
                    BitConverter.ToUInt32(planes, (i * PlaneBytes) + PlanePointerAt),
                    BitConverter.ToUInt32(planes, (i * PlaneBytes) + 4));
        }

        private async Task MapAsync(ulong offset, ulong length)
        {
            if (!_mapped.Add(offset)) return;
            var (errno, _) = await rig.Device.File.MapAsync(rig.SpaceName, length, 3, 1, offset);
            Assert.Equal(Errno.None, errno);
        }
    }
}

using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;

namespace FramePin.Cli;

/// <summary>The options of a capture.</summary>
internal sealed record CaptureOptions
{
    public required int Frames { get; init; }

    public required int Buffers { get; init; }

    /// <summary>Every byte is compared.</summary>
    public bool IsChecked { get; init; }

    /// <summary>Every frame goes to another address.</summary>
    public bool IsFresh { get; init; }

    /// <summary>Buffers lie in huge pages.</summary>
    public bool IsHuge { get; init; }

    public string? SavePath { get; init; }
}

/// <summary>A capture: buffers in the application's own memory go round between it and the driver.</summary>
internal sealed class CaptureRun(
    FramePinClient client, V4l2Device device, LocalMachine? local, string space, CaptureOptions options,
    TestPattern pattern)
{
    private const ulong First = 0x1000_0000;
    private const ulong HugePage = 2UL << 20;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;

    private readonly RemoteFrameMemory _remote = new(client);
    private MappedFrames?[] _mirrors = [];
    private int _done;
    private int _wrong;
    private int _marked;
    private string _firstWrong = "";
    private double _seconds;

    private uint Length => (uint)pattern.Format.Planes[0].Size;

    private ulong Step =>
        options.IsHuge ? ((ulong)Length + HugePage - 1) & ~(HugePage - 1) : ((ulong)Length + 4095 + 4096) & ~4095UL;

    /// <param name="started">Told when the stream is on.</param>
    /// <param name="ended">Told when the last frame is there, before anything is given back.</param>
    /// <param name="cancelled">Ends it.</param>
    public async Task RunAsync(Action started, Action ended, CancellationToken cancelled)
    {
        // With --fresh each buffer has two places, which take turns.
        var places = options.IsFresh ? 2 * options.Buffers : options.Buffers;
        var (errno, answer) = await device.RequestBuffersAsync((uint)options.Buffers, UserPtr, cancelled);
        if (errno != Errno.None) throw new ErrnoException($"{V4l2.RequestBuffers}: {errno}");
        var count = (int)Math.Min(answer.Count, (uint)options.Buffers);
        await MapAsync((ulong)places * Step, cancelled);
        _mirrors = new MappedFrames?[places];
        try
        {
            for (var i = 0; local is not null && i < places; i++)
                _mirrors[i] = await local.MapSpaceAsync(
                    space, First + ((ulong)i * Step), Step, cancellationToken: cancelled);
            var place = new int[count];
            for (var i = 0; i < count; i++) await QueueAsync((uint)i, place[i] = i);
            if (await device.StreamOnAsync(cancelled) is var failed && failed != Errno.None)
                throw new ErrnoException($"{V4l2.StreamOn}: {failed}");
            started();
            var watch = Stopwatch.StartNew();
            await StreamAsync(place, places, cancelled);
            _seconds = watch.Elapsed.TotalSeconds;
            ended();
            await device.StreamOffAsync(CancellationToken.None);
            await device.RequestBuffersAsync(0, UserPtr, CancellationToken.None);
        }
        finally
        {
            foreach (var mirror in _mirrors) mirror?.Dispose();
        }
    }

    public void Report(Output output)
    {
        var format = pattern.Format;
        output.Write(
            new V4l2RequestBuffers { Count = (uint)_done },
            ("frames", string.Create(CultureInfo.InvariantCulture,
                $"{_done} of {format.Width}x{format.Height} {format.Code}, {_done / _seconds:F0} a second")),
            ("pages", local is null ? "by gRPC" : "mapped"),
            ("checked", options.IsChecked ? $"{_wrong} wrong{_firstWrong}" : "no"),
            ("marked as errors", $"{_marked}"));
        output.HasFindings = _wrong > 0 || _marked > 0;
    }

    private async Task StreamAsync(int[] place, int places, CancellationToken cancelled)
    {
        while (_done < options.Frames)
        {
            var (errno, buffer) = await device.DequeueAsync(UserPtr, cancellationToken: cancelled);
            if (errno != Errno.None) throw new ErrnoException($"{V4l2.DequeueBuffer}: {errno} after {_done} frames");
            if ((buffer.Flags & V4l2.FlagError) != 0) _marked++;
            _done++;
            await LookAsync(place[buffer.Index], buffer.Sequence, cancelled);
            if (options.IsFresh) place[buffer.Index] = (place[buffer.Index] + place.Length) % places;
            await QueueAsync(buffer.Index, place[buffer.Index]);
        }
    }

    private async Task QueueAsync(uint index, int place)
    {
        var (errno, _) = await device.QueueUserPtrAsync(index, First + ((ulong)place * Step), Length);
        if (errno != Errno.None) throw new ErrnoException($"{V4l2.QueueBuffer}: {errno} after {_done} frames");
    }

    private async Task LookAsync(int place, uint sequence, CancellationToken cancelled)
    {
        var isLast = _done == options.Frames;
        var isSaved = options.SavePath is { } path && (isLast || path.Contains("%d", StringComparison.Ordinal));
        if (!options.IsChecked && !isSaved) return;
        if (_mirrors[place] is { } mirror)
        {
            Look(mirror.Bytes[..(int)Length], sequence, isSaved);
            return;
        }

        var bytes = new byte[Length];
        var target = new MemoryTarget { Name = space, Position = First + ((ulong)place * Step) };
        await _remote.ReadAsync(target.Name, target.Position, bytes, cancelled);
        Look(bytes, sequence, isSaved);
    }

    private void Look(ReadOnlySpan<byte> bytes, uint sequence, bool isSaved)
    {
        if (options.IsChecked && pattern.FirstWrongRow(0, sequence, bytes) is var row && row >= 0)
        {
            if (_wrong++ == 0) _firstWrong = $", the first is frame {sequence} from row {row} on";
        }

        if (isSaved)
            Pictures.Save(
                options.SavePath!.Replace("%d", $"{sequence}", StringComparison.Ordinal), pattern.Format, bytes);
    }

    private async Task MapAsync(ulong length, CancellationToken cancelled)
    {
        const uint readWrite = 3;
        const uint privateAnonymousFixed = 0x32;
        var call = new MemoryCall
        {
            Mmap = new MmapCall
            {
                Address = First,
                Length = length,
                Prot = readWrite,
                Flags = privateAnonymousFixed
            }
        };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);
        if (!options.IsHuge) return;
        const int hugePage = 14;
        call = new MemoryCall { Madvise = new MadviseCall { Address = First, Length = length, Advice = hugePage } };
        await client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = space, Call = call }, cancellationToken: cancelled);
    }
}

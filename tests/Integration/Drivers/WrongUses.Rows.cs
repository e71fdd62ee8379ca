using System.Globalization;
using FramePin.Drivers;
using FramePin.V1;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>The rows, by name.</summary>
internal sealed partial class WrongUses
{
    public static Dictionary<string, Func<WrongUses, Task<string>>> Answers { get; } = new(StringComparer.Ordinal)
    {
        ["STREAMON before REQBUFS"] = async use => Say(await use._device.StreamOnAsync()),
        ["STREAMOFF before REQBUFS"] = async use => Say(await use._device.StreamOffAsync()),
        ["REQBUFS type 0"] = use => use.RequestOnlyAsync(3, Mmap, type: 0),
        ["REQBUFS type 99"] = use => use.RequestOnlyAsync(3, Mmap, type: 99),
        ["REQBUFS memory 0"] = use => use.RequestAsync(3, 0),
        ["REQBUFS memory 3"] = use => use.RequestAsync(3, 3),
        ["REQBUFS memory 4"] = use => use.RequestAsync(3, 4),
        ["REQBUFS count 0 on an empty queue"] = use => use.RequestOnlyAsync(0, Mmap),
        ["REQBUFS mmap count 1"] = use => use.RequestAsync(1, Mmap),
        ["REQBUFS mmap count 2"] = use => use.RequestAsync(2, Mmap),
        ["REQBUFS mmap count 32"] = use => use.RequestAsync(32, Mmap),
        ["REQBUFS mmap count 33"] = use => use.RequestAsync(33, Mmap),
        ["REQBUFS mmap count 1000"] = use => use.RequestAsync(1000, Mmap),
        ["REQBUFS userptr while mmap buffers exist, none mapped"] = async use =>
        {
            await use.RequestAsync(2, Mmap);
            return await use.RequestAsync(2, UserPtr);
        },
        ["REQBUFS 0 while a buffer is mapped"] = async use => (await use.OrphanAsync()).Answer,
        ["store to the mapping after REQBUFS 0"] = async use => (await use.OrphanAsync()).Store,
        ["REQBUFS 2 while an orphaned mapping exists"] = async use => (await use.OrphanAsync()).Again,
        ["QUERYBUF from a second file"] = async use =>
        {
            await use.RequestAsync(2, Mmap);
            await using var second = await use._rig.OpenAsync("video0", use._rig.SpaceName);
            return Say((await second.QueryAsync(0)).Errno);
        },
        ["REQBUFS after the owner closed"] = async use =>
        {
            await using (var owner = await use._rig.OpenAsync("video0", use._rig.SpaceName))
                await owner.RequestBuffersAsync(2, Mmap);
            return await use.RequestOnlyAsync(2, Mmap);
        },
        ["QBUF index out of range"] = use => use.OnTwoAsync(() => use.QueueAsync(use.Buffer(2))),
        ["QBUF index 0xffffffff"] = use => use.OnTwoAsync(() => use.QueueAsync(use.Buffer(uint.MaxValue))),
        ["QUERYBUF index out of range"] = use => use.OnTwoAsync(
            async () => Say((await use._device.QueryAsync(2)).Errno)),
        ["QBUF wrong type"] = use => use.OnTwoAsync(() =>
        {
            var buffer = use.Buffer(0);
            buffer.Type = 3;
            return use.QueueAsync(buffer);
        }),
        ["QBUF"] = use => use.OnTwoAsync(async () =>
            await use.WithFlagsAsync((await use._device.QueueAsync(use.Buffer(0))).Errno)),
        ["QBUF of a queued buffer"] = use => use.OnTwoAsync(async () =>
        {
            await use.QueueAsync(use.Buffer(0));
            return await use.WithFlagsAsync((await use._device.QueueAsync(use.Buffer(0))).Errno);
        }),
        ["DQBUF not streaming"] = use => use.OnTwoAsync(
            async () => Say((await use._device.DequeueAsync(Mmap)).Errno)),
        ["poll streaming, nothing queued"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            return await use.PollAsync();
        }),
        ["DQBUF streaming, nothing queued (nonblocking)"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            return Say((await use._device.DequeueAsync(Mmap, isNonBlocking: true)).Errno);
        }),
        ["STREAMON twice"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            return Say(await use._device.StreamOnAsync());
        }),
        ["STREAMOFF"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            return Say(await use._device.StreamOffAsync());
        }),
        ["STREAMOFF twice"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOffAsync();
            return Say(await use._device.StreamOffAsync());
        }),
        ["REQBUFS 0 while streaming"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            return await use.RequestOnlyAsync(0, Mmap);
        }),
        ["REQBUFS 4 after that"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.StreamOnAsync();
            await use.RequestOnlyAsync(0, Mmap);
            return await use.RequestAsync(4, Mmap);
        }),
        ["DQBUF after start"] = async use =>
        {
            await use.QueueAllAsync(3);
            await use.StartAsync();
            var buffer = await use.DequeueAsync();
            return $"index {buffer.Index} flags {Flags(buffer)}";
        },
        ["flags after STREAMOFF"] = async use =>
        {
            await use.QueueAllAsync(3);
            await use.StartAsync();
            await use.DequeueAsync();
            await use._device.StreamOffAsync();
            return $"{await use.FlagsAsync(0)} {await use.FlagsAsync(1)} {await use.FlagsAsync(2)}";
        },
        ["S_FMT other size with buffers allocated"] = use => use.OnTwoAsync(async () =>
            Say((await use._device.SetFormatAsync(use._options.IsMultiplanar ? "NM16" : "YUYV", 640, 360)).Errno)),
        ["read() while buffers allocated"] = use => use.OnTwoAsync(() => use.TransferAsync(isWrite: false)),
        ["write() while buffers allocated"] = use => use.OnTwoAsync(() => use.TransferAsync(isWrite: true)),
        ["read() of 1 MiB, nonblocking, first"] = use =>
            use.TransferAsync(isWrite: false, 1 << 20, isNonBlocking: true),
        ["STREAMON while read/write I/O is active"] = async use =>
        {
            await use.TransferAsync(isWrite: false, 1 << 20, isNonBlocking: true);
            await use.RequestAsync(2, Mmap);
            return Say(await use._device.StreamOnAsync());
        },
        ["mmap shared RW"] = use => use.MapAsync(ReadWrite, isShared: true),
        ["mmap private RW"] = use => use.MapAsync(ReadWrite, isShared: false),
        ["mmap shared PROT_WRITE"] = use => use.MapAsync(Write, isShared: true),
        ["mmap longer by one page"] = use => use.MapAsync(ReadWrite, isShared: true, more: 4096),
        ["mmap offset of no buffer (0x40000000)"] = use =>
            use.MapAsync(ReadWrite, isShared: true, offset: 0x4000_0000),
        ["QUERYBUF on a userptr queue"] = async use =>
        {
            await use.RequestAsync(2, UserPtr);
            var (errno, buffer) = await use._device.QueryAsync(0);
            var plane = buffer.Planes[0];
            return $"{Say(errno)} flags {Flags(buffer)} length {plane.Length} userptr {plane.UserPointer:x}";
        },
        ["mmap on a userptr queue"] = async use =>
        {
            await use.RequestAsync(2, UserPtr);
            return await use.MapOnlyAsync(ReadWrite, isShared: true);
        },
        ["EXPBUF O_RDWR"] = use => use.ExportAsync(2),
        ["EXPBUF O_CLOEXEC"] = use => use.ExportAsync(0x8_0000),
        ["EXPBUF plane out of range"] = use => use.ExportAsync(2, plane: 7),
        ["CREATE_BUFS 2 more"] = use => use.CreateMoreAsync(2, 2),
        ["CREATE_BUFS userptr on an mmap queue"] = use => use.OnTwoAsync(
            async () => Say((await use.CreateAsync(2, UserPtr)).Errno)),
        ["CREATE_BUFS wrong type"] = use => use.OnTwoAsync(async () => Say((await use.CreateAsync(2, type: 3)).Errno)),
        ["CREATE_BUFS sizeimage 0"] = use => use.OnTwoAsync(
            async () => Say((await use.CreateAsync(2, isEmpty: true)).Errno)),
        // Where 64 are possible the program had 46 by then; where 32 are, the queue is full.
        ["CREATE_BUFS 100"] = use => use.CreateMoreAsync(46, 100),
        ["CREATE_BUFS 1 at the limit"] = use => use.CreateMoreAsync(1000, 1),
        ["PREPARE_BUF"] = use => use.OnTwoAsync(async () =>
            await use.WithFlagsAsync((await use._device.PrepareAsync(use.Buffer(0))).Errno)),
        ["PREPARE_BUF twice"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.PrepareAsync(use.Buffer(0));
            return Say((await use._device.PrepareAsync(use.Buffer(0))).Errno);
        }),
        ["QBUF of a prepared buffer"] = use => use.OnTwoAsync(async () =>
        {
            await use._device.PrepareAsync(use.Buffer(0));
            return await use.WithFlagsAsync((await use._device.QueueAsync(use.Buffer(0))).Errno);
        }),
        ["QBUF userptr 0"] = use => use.UserAsync(plane => plane.UserPointer = 0),
        ["QBUF userptr ok"] = use => use.UserAsync(_ => { }),
        ["QBUF userptr length 0"] = use => use.UserAsync(plane => plane.Length = 0),
        ["QBUF userptr length sizeimage+4096"] = use => use.UserAsync(plane => plane.Length += 4096),
        ["PREPARE_BUF userptr"] = async use =>
        {
            await use.RequestAsync(2, UserPtr);
            return await use.WithFlagsAsync((await use._device.PrepareAsync(use.Buffer(0, UserPtr))).Errno);
        },
        ["QBUF after it, other pointer"] = async use => (await use.OtherPointerAsync()).Answer,
        ["pointer that QUERYBUF shows"] = async use => (await use.OtherPointerAsync()).Shown,
        ["capture QBUF field 0 bytesused 12345"] = use => use.FieldAsync(0, 12345),
        ["capture QBUF field 4 bytesused 12345"] = use => use.FieldAsync(4, 12345),
        ["QBUF with REQUEST_FD flag, fd -1"] = use => use.OnTwoAsync(() =>
        {
            var buffer = use.Buffer(0);
            (buffer.Flags, buffer.RequestFd) = (V4l2.FlagRequestFd, -1);
            return use.QueueAsync(buffer);
        }),
        ["QBUF dmabuf fd -1"] = use => use.ImportAsync(""),
        ["QBUF dmabuf fd of /dev/null"] = async use =>
        {
            var pin = await use._rig.Daemon.Client.Pinning.PinAsync(
                new PinRequest { AddressSpace = use._rig.SpaceName, Start = At, Pages = 64 });
            var answer = await use.ImportAsync(pin.FrameVector);
            await use._rig.Daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector });
            return answer;
        },
        ["REMOVE_BUFS 0..1"] = async use =>
        {
            await use.RequestAsync(4, Mmap);
            return await use.RemoveAsync(0, 2);
        },
        ["QUERYBUF of a removed buffer"] = async use =>
        {
            await use.RequestAsync(4, Mmap);
            await use.RemoveAsync(0, 2);
            var errno = (await use._device.QueryAsync(0)).Errno;
            return errno == Errno.None ? "0" : string.Create(CultureInfo.InvariantCulture, $"dead{(int)errno:x4}");
        },
        ["REMOVE_BUFS again"] = async use =>
        {
            await use.RequestAsync(4, Mmap);
            await use.RemoveAsync(0, 2);
            return await use.RemoveAsync(0, 2);
        },
        ["REMOVE_BUFS past the end"] = async use =>
        {
            await use.RequestAsync(4, Mmap);
            return await use.RemoveAsync(3, 2);
        },
        ["REMOVE_BUFS of a queued buffer"] = async use =>
        {
            await use.QueueAllAsync(4);
            return await use.RemoveAsync(3, 1);
        },
        ["REMOVE_BUFS count 0"] = use => use.RemoveAsync(0, 0),
        ["unknown ioctl 'X' 1"] = use => use.UnknownAsync(),
        ["REQBUFS capabilities"] = async use =>
        {
            var bytes = await use.RequestBytesAsync(flags: 0);
            return $"{bytes[12] | (bytes[13] << 8):x} flags {bytes[16]}";
        },
        ["REQBUFS flag NON_COHERENT"] = async use => $"flags {(await use.RequestBytesAsync(flags: 1))[16]}",
        ["QBUF bad pointer"] = use => use.OnTwoAsync(() => use.PointerAsync(0xc058_560f, 0x5000_0000)),
        ["REQBUFS pointer to read-only memory"] = use =>
        {
            use._rig.Lab.Anon(ReadOnly, 1, FramePin.Core.Abi.Prot.Read, written: false);
            return use.PointerAsync(RequestNumber, ReadOnly);
        },
        ["poll with one more in flight, at once after DQBUF"] = async use =>
        {
            await use.OneInFlightAsync();
            return await use.PollAsync();
        },
        ["poll 0.2 s later"] = async use =>
        {
            await use.OneInFlightAsync();
            if (use._options.IsOutput) return await use.PollAsync();
            var finished = use._device.PollAsync(PollEvents.In);
            use.Time.Tick();
            await finished;
            return await use.PollAsync();
        },
        ["poll with every buffer dequeued"] = async use =>
        {
            await use.AllTakenAsync();
            return await use.PollAsync();
        },
        ["select with every buffer dequeued"] = async use =>
        {
            await use.AllTakenAsync();
            var (_, events) = await use._device.PollAsync(PollEvents.AlwaysReady, TimeSpan.Zero);
            var read = (events & (PollEvents.In | PollEvents.ReadNormal | PollEvents.Error)) == 0 ? 0 : 1;
            var write = (events & (PollEvents.Out | PollEvents.WriteNormal | PollEvents.Error)) == 0 ? 0 : 1;
            return $"{read + write} read {read} write {write}";
        },
        ["order of DQBUF"] = async use =>
        {
            await use.QueueAllAsync(2);
            await use.StartAsync();
            var first = (await use.DequeueAsync()).Index;
            if (!use._options.IsOutput) return $"{first} {(await use.DequeueAsync()).Index}";
            var (errno, _) = await use._device.DequeueAsync(Mmap, isNonBlocking: true);
            return $"{first} {(errno == Errno.None ? 1 : -1)}";
        },
        ["S_CTRL unknown id"] = async use => Say(await use._device.SetControlAsync("no_such_control", 1)),
        ["output QBUF bytesused = length"] = use => use.OnTwoAsync(async () =>
        {
            var buffer = use.Buffer(0);
            for (var i = 0; i < buffer.Planes.Count; i++) buffer.Planes[i].BytesUsed = use.Lengths[i];
            var (errno, answer) = await use._device.QueueAsync(buffer);
            return $"{Say(errno)} bytesused {answer.Planes[0].BytesUsed}";
        }),
        ["output QBUF field 0"] = use => use.FieldAsync(0),
        ["output QBUF field 1"] = use => use.FieldAsync(1),
        ["output QBUF field 2"] = use => use.FieldAsync(2),
        ["output QBUF field 3"] = use => use.FieldAsync(3),
        ["output QBUF field 4"] = use => use.FieldAsync(4),
        ["output QBUF field 5"] = use => use.FieldAsync(5),
        ["output QBUF field 6"] = use => use.FieldAsync(6),
        ["output QBUF field 7"] = use => use.FieldAsync(7),
        ["QUERYBUF length and offset of buffer 1 plane 1"] = use => use.OnTwoAsync(async () =>
        {
            var plane = (await use._device.QueryAsync(1)).Buffer.Planes[1];
            return $"length {plane.Length} offset {plane.Offset:x}";
        }),
        ["QBUF planes length 1 of 2"] = use => use.PlanesAsync(1, 1),
        ["QBUF planes length 2 of 2"] = use => use.PlanesAsync(2, 2),
        ["QBUF planes length 9 of 2"] = use => use.PlanesAsync(9, 9),
        ["QBUF planes NULL"] = use => use.PlanesAsync(2, 0),
        ["QUERYBUF planes NULL length 0"] = use => use.OnTwoAsync(async () => Say((await use._device.IoctlAsync(
            V4l2.QueryBuffer, new V4l2Buffer { Type = use._device.Type, Memory = Mmap })).Errno)),
        ["output QBUF data_offset > bytesused"] = use => use.OnTwoAsync(() =>
        {
            var buffer = use.Buffer(0);
            (buffer.Planes[0].BytesUsed, buffer.Planes[0].DataOffset) = (1000, 1001);
            return use.QueueAsync(buffer);
        }),
    };

    /// <summary>Two MMAP buffers, then the call.</summary>
    private async Task<string> OnTwoAsync(Func<Task<string>> call)
    {
        await RequestAsync(2, Mmap);
        return await call();
    }

    /// <summary>REQBUFS 0 with a mapped buffer, a store to its mapping, and REQBUFS 2.</summary>
    private async Task<(string Answer, string Store, string Again)> OrphanAsync()
    {
        await RequestAsync(2, Mmap);
        var (address, length) = await KeepMappedAsync();
        var answer = await RequestOnlyAsync(0, Mmap);
        _rig.Machine.Write(_rig.Lab.Space, address, [1], out var signal);
        var again = await RequestOnlyAsync(2, Mmap);
        _rig.Machine.Munmap(_rig.Lab.Space, address, length);
        return (answer, signal == default ? "no signal" : $"{signal}", again);
    }

    /// <summary>PREPARE_BUF with one pointer, QBUF with another.</summary>
    private async Task<(string Answer, string Shown)> OtherPointerAsync()
    {
        await RequestAsync(2, UserPtr);
        var prepared = Buffer(0, UserPtr);
        await _device.PrepareAsync(prepared);
        var other = Buffer(0, UserPtr);
        other.Planes[0].UserPointer = At + (3 * Step);
        var answer = await QueueAsync(other);
        var shown = (await _device.QueryAsync(0)).Buffer.Planes[0].UserPointer;
        return (answer, shown == prepared.Planes[0].UserPointer ? "the prepared one" : "the other one");
    }

    /// <summary>Two queued, one of them dequeued.</summary>
    private async Task OneInFlightAsync()
    {
        await QueueAllAsync(2);
        await StartAsync();
        await DequeueAsync();
    }

    /// <summary>Every buffer dequeued that the device gives back: an output shows the last one on.</summary>
    private async Task AllTakenAsync()
    {
        await OneInFlightAsync();
        if (!_options.IsOutput) await DequeueAsync();
    }
}

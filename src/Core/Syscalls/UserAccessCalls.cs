using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Syscalls;

/// <summary>How a program's own access ended.</summary>
/// <param name="Done">Bytes or pages done; fewer than asked for came with a signal.</param>
/// <param name="Signal">Why it ended early, or none.</param>
public readonly record struct AccessResult(long Done, UserSignal Signal);

/// <summary>A program touches each page from <paramref name="Start"/> on, by a load or a store.</summary>
/// <param name="Space">Whose memory.</param>
/// <param name="Start">An address in the first page, in bytes.</param>
/// <param name="Pages">Pages to touch.</param>
/// <param name="IsWrite">A store.</param>
public readonly partial record struct TouchCall(SpaceId Space, ulong Start, long Pages, bool IsWrite)
    : ICommand<TouchCall, AccessResult>
{
    public AccessResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(Space) is not { Exited: false } space) return new(0, UserSignal.SigSegvMapErr);
        for (var i = 0L; i < Pages; i++)
        {
            var address = Start + ((ulong)i << PageGeometry.PageShift);
            var signal = UserAccess.Touch(turn.Kernel, space, address, IsWrite, out _);
            if (signal != UserSignal.None) return new(i, signal);
        }

        return new(Pages, UserSignal.None);
    }

    public void Write(CommandWriter writer) => writer.Add(Space).Add(Start).Add(Pages).Add(IsWrite);

    public static TouchCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.I64(), reader.Bool());
}

/// <summary>A program loads bytes.</summary>
/// <param name="space">Whose memory.</param>
/// <param name="address">First byte.</param>
/// <param name="buffer">Receives the bytes.</param>
public readonly ref struct LoadCall(SpaceId space, ulong address, Span<byte> buffer) : ICommand<LoadCall, AccessResult>
{
    private readonly Span<byte> _buffer = buffer;

    public AccessResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(space) is not { Exited: false } living) return new(0, UserSignal.SigSegvMapErr);
        var done = UserAccess.Copy(turn.Kernel, living, address, _buffer, isWrite: false, out var signal);
        return new(done, signal);
    }

    public void Write(CommandWriter writer) => writer.Add(space).Add(address).Add(_buffer.Length);

    public static LoadCall Read(ref CommandReader reader) =>
        new(reader.Space(), reader.U64(), reader.Room());
}

/// <summary>A program stores bytes.</summary>
/// <param name="space">Whose memory.</param>
/// <param name="address">First byte.</param>
/// <param name="bytes">The bytes.</param>
public readonly ref partial struct StoreCall(SpaceId space, ulong address, ReadOnlySpan<byte> bytes)
    : ICommand<StoreCall, AccessResult>
{
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    public AccessResult Run(in Turn turn)
    {
        if (turn.Kernel.Space(space) is not { Exited: false } living) return new(0, UserSignal.SigSegvMapErr);
        // UserAccess.Copy works in both directions on one span; for a store it only reads from the span.
        var source = System.Runtime.InteropServices.MemoryMarshal.CreateSpan(
            ref System.Runtime.InteropServices.MemoryMarshal.GetReference(_bytes), _bytes.Length);
        var done = UserAccess.Copy(turn.Kernel, living, address, source, isWrite: true, out var signal);
        return new(done, signal);
    }

    public void Write(CommandWriter writer) => writer.Add(space).Add(address).Add(_bytes);

    public static StoreCall Read(ref CommandReader reader) => new(reader.Space(), reader.U64(), reader.Bytes());
}

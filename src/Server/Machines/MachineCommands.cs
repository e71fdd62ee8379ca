using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;

namespace FramePin.Server.Machines;

/// <summary>
/// The commands of a machine that take memory away. The watches of that memory are asked first, whichever call, lease
/// or packet sends the command.
/// </summary>
/// <remarks>
/// Any thread. On a machine without watches a command runs at once, and a pin allocates nothing. Core decides which
/// ranges a command takes away, under the turn in which the command runs.
/// </remarks>
internal sealed class MachineCommands(Machine machine, InvalidationWatches watches)
{
    /// <summary>Runs a command that answers as a system call does.</summary>
    public ValueTask<SyscallResult> CallAsync<TCommand>(TCommand command)
        where TCommand : struct, ISyscall<TCommand>, IInvalidating =>
        RunAsync<TCommand, SyscallResult>(command);

    /// <summary>
    /// Runs a command that maps memory, and tells the watches of the range, which is mapped also while the call waits.
    /// </summary>
    public async ValueTask<SyscallResult> MapAsync<TCommand>(TCommand command)
        where TCommand : struct, ISyscall<TCommand>, IInvalidating, IMemoryMapping
    {
        var result = await CallAsync(command).ConfigureAwait(false);
        if (result.IsOk || result.Rest is not null) watches.TellMapped(command.Space, command.MappedAt(result.Value));
        return result;
    }

    /// <summary>Runs a command.</summary>
    public ValueTask<TResult> RunAsync<TCommand, TResult>(TCommand command)
        where TCommand : struct, ICommand<TCommand, TResult>, IInvalidating =>
        machine.TryExecute<TCommand, TResult>(command, null, out var result, out var missing)
            ? new(result)
            : Watched<TCommand, TResult>(command, missing);

    /// <summary>A program stores bytes.</summary>
    public ValueTask<AccessResult> StoreAsync(SpaceId space, ulong address, ReadOnlyMemory<byte> bytes) =>
        machine.TryExecute(new StoreCall(space, address, bytes.Span), null, out AccessResult done, out var missing)
            ? new(done)
            : watches.RunAsync(
                missing,
                (AnnouncedRanges announced, out AccessResult result,
                    out IReadOnlyList<TakenRange> more) => machine.TryExecute(
                        new StoreCall(space, address, bytes.Span), announced, out result, out more));

    /// <summary>Pins into an empty vector that nothing else uses meanwhile.</summary>
    /// <param name="request">The arguments.</param>
    /// <param name="vector">The vector.</param>
    /// <param name="phases">Told about the phases; may be null.</param>
    /// <param name="cancelled">The caller gives up: the pin stops with the pages that it has.</param>
    public ValueTask<PinOutcome> PinAsync(
        in PinRequest request, FrameVector vector, IPinObserver? phases, CancellationToken cancelled) =>
        machine.TryPin(request, vector, null, phases, out var outcome, out var missing, cancelled)
            ? new(outcome)
            : Watched(request, vector, phases, missing, cancelled);

    private ValueTask<PinOutcome> Watched(
        PinRequest request, FrameVector vector, IPinObserver? phases, IReadOnlyList<TakenRange> missing,
        CancellationToken cancelled) =>
        watches.RunAsync(
            missing,
            (AnnouncedRanges announced, out PinOutcome result, out IReadOnlyList<TakenRange> more) =>
                machine.TryPin(request, vector, announced, phases, out result, out more, cancelled));

    private ValueTask<TResult> Watched<TCommand, TResult>(TCommand command, IReadOnlyList<TakenRange> missing)
        where TCommand : struct, ICommand<TCommand, TResult>, IInvalidating =>
        watches.RunAsync(
            missing,
            (AnnouncedRanges announced, out TResult result, out IReadOnlyList<TakenRange> more) =>
                machine.TryExecute(command, announced, out result!, out more));
}

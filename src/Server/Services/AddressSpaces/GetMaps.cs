using FramePin.Core.Inspection;
using FramePin.Server.Machines;
using FramePin.Server.Mapping;
using FramePin.V1;
using Grpc.Core;
using MapsEntry = FramePin.V1.MapsEntry;

namespace FramePin.Server.Services;

internal sealed partial class AddressSpaceService
{
    /// <summary>/proc/PID/maps and smaps (Core/Inspection/MapsQuery.cs).</summary>
    public override Task<GetMapsResponse> GetMaps(GetMapsRequest request, ServerCallContext context)
    {
        var (host, id) = machines.Resolve(
            context, request.AddressSpace, Names.AddressSpaces, Right.Read, "address_space");
        var space = host.Spaces.Get(id);
        var query = new MapsQuery(space.Thing, request.WithUsage);
        var response = new GetMapsResponse();
        foreach (var entry in host.Machine.Query<MapsQuery, IReadOnlyList<Core.Inspection.MapsEntry>>(query))
        {
            response.Entries.Add(new MapsEntry
            {
                Start = entry.Range.Start,
                End = entry.Range.End,
                Permissions = entry.Permissions,
                Offset = entry.Offset,
                Device = entry.DeviceNumber,
                Inode = entry.Inode,
                Path = entry.Name,
                Line = entry.ToMapsLine(),
                Rss = entry.Rss,
                Anonymous = entry.Anonymous,
                AnonHuge = entry.AnonHuge,
                Swap = entry.Swap,
                KernelPageSize = entry.KernelPageSize,
                VmFlags = entry.VmFlagLetters(),
            });
        }

        // The process may have exited, and its name goes a moment later. Its maps are refused then, and not empty.
        Views.Of(host, space);
        return Task.FromResult(response);
    }
}
